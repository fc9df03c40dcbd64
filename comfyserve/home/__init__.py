"""The landing page, `/`: what this service is and where to find things, as HTML or JSON."""
