-- Usage of settled jobs that is older than what usage_ledger keeps, as sums. Money is micro-dollars.
-- The account '' has the usage of accounts that were deleted.
CREATE TABLE usage_daily (
  account TEXT NOT NULL,
  day TEXT NOT NULL, -- UTC date of the settlement
  tier TEXT NOT NULL,
  jobs INTEGER NOT NULL,
  captured INTEGER NOT NULL, -- of these jobs, how many were charged
  charged INTEGER NOT NULL,
  PRIMARY KEY (account, day, tier)
) STRICT, WITHOUT ROWID;

-- The sums of both tables: they stay the same when rows are folded.
CREATE VIEW usage_totals AS
  SELECT account, day, tier, sum(jobs) AS jobs, sum(captured) AS captured, sum(charged) AS charged FROM (
    SELECT account, day, tier, jobs, captured, charged FROM usage_daily
    UNION ALL
    SELECT account, date(settled / 1000, 'unixepoch'), tier, 1, state = 'captured', charged FROM usage_ledger)
  GROUP BY account, day, tier;

CREATE INDEX observations_by_time ON observations (finished);
