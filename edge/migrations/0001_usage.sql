-- Settled jobs of all accounts. The ledger of each account is authoritative. Rows may arrive more than once; the id deduplicates them.
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
  reported INTEGER -- when Stripe accepted it
) STRICT;
CREATE INDEX usage_ledger_by_account ON usage_ledger (account, settled);
CREATE INDEX usage_ledger_by_time ON usage_ledger (settled);

-- Durations of finished jobs by endpoint, model and tier: the data for forecasts.
CREATE TABLE observations (
  id TEXT PRIMARY KEY,
  endpoint TEXT NOT NULL,
  model TEXT NOT NULL,
  tier TEXT NOT NULL,
  created INTEGER NOT NULL,
  finished INTEGER NOT NULL,
  megapixel_steps REAL NOT NULL,
  waited REAL NOT NULL, -- until a GPU accepted the job, plus the time in its queue
  load REAL NOT NULL, -- 0 if the model was already loaded
  run REAL NOT NULL
) STRICT;
CREATE INDEX observations_by_offer ON observations (endpoint, model, tier, finished);
