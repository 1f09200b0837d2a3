alice bob
