"""The kiosk: does this person want service, or are they passing by? Drawings of people, seen by a made-up camera."""
