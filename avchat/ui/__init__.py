"""The browser app. Only app.py and `avchat demo` import it."""
