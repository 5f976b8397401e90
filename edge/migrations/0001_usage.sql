-- Settled jobs of all accounts. The accounts' own ledgers are the truth; rows arrive at least once, and the id keeps one of each.
-- Money is micro-dollars, times are Unix milliseconds, durations seconds.
CREATE TABLE usage_ledger (
  id TEXT PRIMARY KEY, -- <account>/<job>
  account TEXT NOT NULL,
  job TEXT NOT NULL,
  key_id TEXT NOT NULL,
  tier TEXT NOT NULL,
  state TEXT NOT NULL, -- captured or released
  reserved_amount INTEGER NOT NULL,
  charged INTEGER NOT NULL,
  reserved INTEGER NOT NULL,
  settled INTEGER NOT NULL,
  stripe_customer TEXT,
  reported INTEGER -- when Stripe took it
) STRICT;
CREATE INDEX usage_ledger_by_account ON usage_ledger (account, settled);
CREATE INDEX usage_ledger_by_time ON usage_ledger (settled);

-- What finished jobs took, by what ran them: the ground of forecasts.
CREATE TABLE observations (
  id TEXT PRIMARY KEY,
  endpoint TEXT NOT NULL,
  model TEXT NOT NULL,
  tier TEXT NOT NULL,
  created INTEGER NOT NULL,
  finished INTEGER NOT NULL,
  megapixel_steps REAL NOT NULL,
  waited REAL NOT NULL, -- until a GPU accepted the job, and in its queue
  load REAL NOT NULL, -- 0 when the model was there already
  run REAL NOT NULL
) STRICT;
CREATE INDEX observations_by_offer ON observations (endpoint, model, tier, finished);
