"""The least a Django project needs; yours has these already."""

from django.http import HttpRequest, JsonResponse
from django.urls import path

SECRET_KEY = "only for this example"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "settings"
USE_TZ = True


def hello(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"hello": "from the application"})


urlpatterns = [path("hello", hello)]
