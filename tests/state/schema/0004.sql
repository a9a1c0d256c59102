-- A store as the release with sites left it.
CREATE TABLE record (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE extents (
    volume TEXT PRIMARY KEY,
    devices TEXT NOT NULL,
    columns BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE sequence (
    name TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO record VALUES ('system', 'system', '{"iqn":"iqn.2026-11.com.example:d","initiator_iqn":"iqn.2026-11.com.example:d.initiator","mode":"local","identity":"0123456789abcdef0123456789abcdef","company_id":187920}');
INSERT INTO record VALUES ('portal-group', '00001', '{"tag":1,"portals":["192.0.2.1:3260","[2001:db8::1]:3260"],"target_port_group":1}');
INSERT INTO record VALUES ('host', 'h1', '{"name":"h1","initiators":["*"],"luns":{"0":"alpha"},"remote_copy":[]}');
INSERT INTO record VALUES ('site', 'osaka', '{"name":"osaka","iqn":"iqn.2026-11.com.example:osaka","portals":["192.0.2.9:3260"],"initiator":"iqn.2026-11.com.example:osaka.initiator","without_chap":false,"offered":{"1":"alpha"},"identity":""}');
INSERT INTO record VALUES ('volume', 'alpha', '{"name":"alpha","block_size":512,"naa":"62da1000000000000000000000000001","image":false,"mode":"direct","created":1.5}');
INSERT INTO extents VALUES ('alpha', '["sd1/0", "old/3"]', X'64000000000000003200000000000000010000000000000008000000000000000000000000000000c800000000000000000000000100000000000000');
INSERT INTO sequence VALUES ('job', 41);
PRAGMA user_version = 4;
