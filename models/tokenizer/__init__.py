"""The tokenizer: from items to semantic IDs, kept as a versioned bundle.

Read in this order: `config`; `content` and `sentences` (item text -> vector); `collaborative` (training sequences ->
vector); `vectors` (both, with a frozen regression for cold items); `quantizer` (the role vector -> codes), `balance`,
`kmeans`, `rq_vae`, `extra_level`; `report` and `plots` (health); `build`, `bundle`, `append` (the files).
"""
