"""The WSGI application. Run these commands, each in its own terminal, the last one in this project:

tidings server
tidings run examples.greeter:app
gunicorn --workers 2 --threads 8 shop.wsgi

Then open http://127.0.0.1:8000/greet/Ada. For development, replace gunicorn by
`python manage.py runserver`.
"""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
application = get_wsgi_application()
