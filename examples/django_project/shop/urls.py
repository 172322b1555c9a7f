"""The URLs of the project."""

from django.urls import path

from shop.views import greet

urlpatterns = [path("greet/<str:name>", greet)]
