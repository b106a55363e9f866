"""Networks under study: small registered ones with their training, any user module, and hook points into them."""
