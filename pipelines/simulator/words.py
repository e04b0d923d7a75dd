"""The words the simulated catalogue is written with."""

from __future__ import annotations

ROOT = "shop"

TREE: dict[str, tuple[str, ...]] = {
    "kitchen": ("kettle", "coffee grinder", "chef knife", "frying pan", "storage jar", "baking tin"),
    "garden": ("watering can", "plant pot", "pruning shears", "garden bench", "bird feeder", "seed kit"),
    "sports": ("yoga mat", "dumbbell", "running belt", "cycling gloves", "swim goggles", "skipping rope"),
    "fashion": ("wool scarf", "leather belt", "linen shirt", "rain jacket", "canvas sneakers", "knit beanie"),
    "beauty": ("face cream", "hair oil", "lip balm", "bath salts", "shaving brush", "perfume"),
    "books": ("cookbook", "travel guide", "mystery novel", "poetry volume", "comic album", "history atlas"),
    "electronics": ("headphones", "desk lamp", "power bank", "bluetooth speaker", "keyboard", "webcam"),
    "toys": ("wooden train", "puzzle", "board game", "plush bear", "building blocks", "kite"),
}
"""Departments and their sub-categories."""

THEMES: dict[str, tuple[str, ...]] = {
    "minimal": ("minimal", "plain", "slim", "monochrome", "matte", "pure"),
    "rustic": ("rustic", "handmade", "oak", "farmhouse", "earthen", "natural"),
    "vintage": ("vintage", "retro", "classic", "antique", "nostalgic", "heritage"),
    "sporty": ("sporty", "dynamic", "lightweight", "aero", "rugged", "active"),
    "luxury": ("luxury", "gold", "premium", "velvet", "signature", "exclusive"),
    "playful": ("playful", "colourful", "cartoon", "funny", "rainbow", "happy"),
    "eco": ("eco", "recycled", "organic", "bamboo", "vegan", "refillable"),
    "nordic": ("nordic", "birch", "cosy", "hygge", "pale", "fjord"),
    "industrial": ("industrial", "steel", "concrete", "loft", "riveted", "raw"),
    "tropical": ("tropical", "palm", "coral", "island", "mango", "sunny"),
    "gothic": ("gothic", "black", "raven", "ornate", "midnight", "iron"),
    "smart": ("smart", "connected", "digital", "wireless", "automatic", "app"),
}
"""Styles that cut across categories, each with words of its own."""

COLOURS: tuple[str, ...] = ("red", "blue", "green", "white", "grey", "brown", "purple", "orange")
SYLLABLES: tuple[str, ...] = ("al", "ben", "cor", "dor", "el", "fin", "gal", "hol", "is", "jun", "kar", "lum")

BRANDS: tuple[str, ...] = tuple(
    (SYLLABLES[n % 12] + SYLLABLES[(5 * n + n // 12 + 1) % 12] + ("a", "o", "ix")[n % 3]).capitalize()
    for n in range(36)
)

HOUR_BUCKETS: tuple[str, ...] = ("night", "morning", "afternoon", "evening")
"""Parts of the day, six hours each from midnight."""

DEVICES: tuple[str, ...] = ("desktop", "mobile")
BUDGETS: tuple[str, ...] = ("high", "medium", "low")
"""Bands of noisily observed price sensitivity, least sensitive first."""
