"""As jukemirlib: extract() and setup_models(), the models as globals of lib."""
from .lib import extract  # noqa: F401
from .setup_models import setup_models  # noqa: F401
