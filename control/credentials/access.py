"""What every handler asks first: who calls, may he do that, and which service is meant."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from control.contract.problem import Problem
from control.credentials.auth import KEY, allow, authenticate, forbidden, reaches, still_valid
from control.credentials.key_use import KeyUse
from control.ports import Objects
from control.services import names, remains
from control.services.catalogue import Catalogue
from control.services.records import service_not_found
from state.models import ApiKey, Service


@dataclass(frozen=True, slots=True)
class Access:
    """The door of the API. What it lets through is noted as a use of the key."""

    objects: Objects
    catalogue: Catalogue
    key_use: KeyUse

    def caller(self, request: web.Request) -> ApiKey:
        """The key of the request. Raises Problem 401; 503 as long as no key can be known."""
        if KEY in request:
            return request[KEY]
        if not self.objects.run_id:
            raise Problem(503, "The store has not been read yet; try again.", headers={"Retry-After": "1"})
        key = authenticate(request, self.catalogue)
        self.key_use.note(key)
        return key

    def allowed(self, request: web.Request, scope: str) -> str:
        """The namespace of the path, if the caller may do that there. Raises Problem 400, 401, 403, 404, 503."""
        namespace = request.match_info["namespace"]
        allow(self.caller(request), namespace, scope, self.catalogue)
        return namespace

    def administrator(self, request: web.Request) -> ApiKey:
        """Raises Problem 401, 403, 503."""
        key = self.caller(request)
        if not reaches(key.scope, "admin"):
            raise forbidden()
        return key

    def valid(self, request: web.Request) -> bool:
        """Whether the key is still good: for streams, which outlive a moment."""
        return still_valid(request[KEY], self.catalogue)

    def service(self, request: web.Request) -> Service:
        """The service of the path, to be read. Raises Problem as `allowed` does, and 404."""
        namespace, name = self.allowed(request, "read"), request.match_info["name"]
        service = self.catalogue.service(namespace, name)
        if service is None:
            raise service_not_found(name)
        return service

    def target(self, request: web.Request) -> tuple[str, str]:
        """Namespace and name of the service of the path, to be written to. Raises Problem as `allowed` does, and 404
        for what can't be a name."""
        namespace, name = self.allowed(request, "write"), request.match_info["name"]
        if names.service_name_error(name):
            raise service_not_found(name)
        return namespace, name

    def service_id(self, request: web.Request) -> str:
        """The id of the service of the path, which may be named by the id of one that was deleted."""
        namespace, name = self.allowed(request, "read"), request.match_info["name"]
        service = self.catalogue.service(namespace, name)
        if service is not None:
            return service.id
        gone = remains.find(self.objects, name)
        if gone is None or gone.namespace != namespace:
            raise service_not_found(name)
        return name
