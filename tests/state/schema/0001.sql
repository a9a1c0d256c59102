-- A store as the first release left it.
CREATE TABLE record (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE sequence (
    name TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO record VALUES ('host', 'h1', '{"name":"h1","initiators":["*"],"luns":{"0":"alpha"},"remote_copy":[]}');
INSERT INTO sequence VALUES ('job', 41);
PRAGMA user_version = 1;
