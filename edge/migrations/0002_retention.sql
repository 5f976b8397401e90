-- Sums of usage older than the retention of usage_ledger. Amounts are micro-dollars.
-- The account '' contains the usage of deleted accounts.
CREATE TABLE usage_daily (
  account TEXT NOT NULL,
  day TEXT NOT NULL, -- UTC date of the settlement
  tier TEXT NOT NULL,
  jobs INTEGER NOT NULL,
  captured INTEGER NOT NULL, -- number of these jobs with a charge
  charged INTEGER NOT NULL,
  PRIMARY KEY (account, day, tier)
) STRICT, WITHOUT ROWID;

-- Sums over both tables, unaffected by folding.
CREATE VIEW usage_totals AS
  SELECT account, day, tier, sum(jobs) AS jobs, sum(captured) AS captured, sum(charged) AS charged FROM (
    SELECT account, day, tier, jobs, captured, charged FROM usage_daily
    UNION ALL
    SELECT account, date(settled / 1000, 'unixepoch'), tier, 1, state = 'captured', charged FROM usage_ledger)
  GROUP BY account, day, tier;

CREATE INDEX observations_by_time ON observations (finished);
