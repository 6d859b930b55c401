PRAGMA application_id=1515147057;
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE alias_history (
	id INTEGER NOT NULL,
	entry_id INTEGER NOT NULL,
	alias TEXT NOT NULL,
	version_id INTEGER,
	at TEXT NOT NULL,
	CONSTRAINT pk_alias_history PRIMARY KEY (id),
	CONSTRAINT fk_alias_history_entry_id_entries FOREIGN KEY(entry_id) REFERENCES entries (id),
	CONSTRAINT fk_alias_history_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id)
)
 STRICT

;
INSERT INTO "alias_history" VALUES(1,2,'best',2,'2026-11-21T20:31:02.204037Z');
CREATE TABLE aliases (
	entry_id INTEGER NOT NULL,
	alias TEXT NOT NULL,
	version_id INTEGER NOT NULL,
	CONSTRAINT pk_aliases PRIMARY KEY (entry_id, alias),
	CONSTRAINT fk_aliases_entry_id_entries FOREIGN KEY(entry_id) REFERENCES entries (id),
	CONSTRAINT fk_aliases_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id)
)
 WITHOUT ROWID,
 STRICT

;
INSERT INTO "aliases" VALUES(2,'best',2);
CREATE TABLE edges (
	child_id INTEGER NOT NULL,
	role TEXT NOT NULL,
	position INTEGER NOT NULL,
	parent_id INTEGER NOT NULL,
	weight REAL,
	CONSTRAINT pk_edges PRIMARY KEY (child_id, role, position),
	CONSTRAINT fk_edges_child_id_versions FOREIGN KEY(child_id) REFERENCES versions (id),
	CONSTRAINT fk_edges_parent_id_versions FOREIGN KEY(parent_id) REFERENCES versions (id)
)
 WITHOUT ROWID,
 STRICT

;
INSERT INTO "edges" VALUES(2,'base',0,1,NULL);
INSERT INTO "edges" VALUES(3,'base',0,1,NULL);
INSERT INTO "edges" VALUES(4,'base',0,1,NULL);
INSERT INTO "edges" VALUES(4,'expert',0,2,0.5);
INSERT INTO "edges" VALUES(4,'expert',1,3,0.5);
CREATE TABLE entries (
	id INTEGER NOT NULL,
	name TEXT NOT NULL,
	last_number INTEGER NOT NULL,
	CONSTRAINT pk_entries PRIMARY KEY (id),
	CONSTRAINT uq_entries_name UNIQUE (name)
)
 STRICT

;
INSERT INTO "entries" VALUES(1,'base',1);
INSERT INTO "entries" VALUES(2,'math',1);
INSERT INTO "entries" VALUES(3,'code',1);
INSERT INTO "entries" VALUES(4,'mix',1);
INSERT INTO "entries" VALUES(5,'gone',1);
CREATE TABLE events (
	sequence INTEGER NOT NULL,
	at TEXT NOT NULL,
	action TEXT NOT NULL,
	subject TEXT NOT NULL,
	version_id INTEGER,
	detail TEXT NOT NULL,
	previous TEXT NOT NULL,
	hash TEXT NOT NULL,
	CONSTRAINT pk_events PRIMARY KEY (sequence),
	CONSTRAINT fk_events_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id)
)
 STRICT

;
INSERT INTO "events" VALUES(1,'2026-11-21T20:31:02.178246Z','init','zoo',NULL,'{"store":"registry.store","uuid":"ffca2520-02da-4457-bc3d-3d9518456732"}','','sha256:daff8dbbd9ec3d1d0df69dc55576112b32000355971fe718d2a1e20644ee74d0');
INSERT INTO "events" VALUES(2,'2026-11-21T20:31:02.183023Z','add','base@1',1,'{"digest":"sha256:31be1ff96066bb2b5464e8a25319a4b44cab4c87f0266712ca4eb04dc3bd712e","files":{"model.safetensors":"flat:7c9fa136d4413fa6173637e883b6998d32e1d675f88cddff9dcbcf331820f4b8"},"kind":"base","license":"apache-2.0","tags":{"n":"3","owner":"me"}}','sha256:daff8dbbd9ec3d1d0df69dc55576112b32000355971fe718d2a1e20644ee74d0','sha256:30d55240e0880b8e721c67b63fcae1dcb9952c4f7707b5d09f3161a82422101f');
INSERT INTO "events" VALUES(3,'2026-11-21T20:31:02.193138Z','add','math@1',2,'{"base":1,"digest":"sha256:11e9e87ede4ed3667076a2e83e7453f21ae37f97e68ce8feb475ec2bdd124fb6","files":{"model.safetensors":"flat:d86e8112f3c4c4442126f8e9f44f16867da487f29052bf91b810457db34209a4"},"kind":"expert","metrics":[["accuracy","test",0.75]],"phase":"IV-B","task":"math"}','sha256:30d55240e0880b8e721c67b63fcae1dcb9952c4f7707b5d09f3161a82422101f','sha256:d9a41e86af3ec79560fada0b02edaaac42f789bbf5844f29333174352479773d');
INSERT INTO "events" VALUES(4,'2026-11-21T20:31:02.197269Z','add','code@1',3,'{"base":1,"digest":"sha256:c174fb7ad253bd5f83f73d434dadd4c8dd1788454635da096a8f31f8aac96929","files":{"model.safetensors":"flat:35be322d094f9d154a8aba4733b8497f180353bd7ae7b0a15f90b586b549f28b"},"kind":"expert","task":"code"}','sha256:d9a41e86af3ec79560fada0b02edaaac42f789bbf5844f29333174352479773d','sha256:40042eba366c5d6d57566d293774d9ea667f59dcfa156b037866cd35b3ca2ca0');
INSERT INTO "events" VALUES(5,'2026-11-21T20:31:02.200465Z','add','mix@1',4,'{"base":1,"digest":"sha256:0b88c833677b88d9f385027ec3e24a32e37ace723230d4d7cbbeb7ef74fae666","files":{"model.safetensors":"flat:f0a0278e4372459cca6159cd5e71cfee638302a7b9ca9b05c34181ac0a65ac5d"},"kind":"merge","recipe":"sha256:1111111111111111111111111111111111111111111111111111111111111111","run":"11111111-1111-4111-8111-111111111111"}','sha256:40042eba366c5d6d57566d293774d9ea667f59dcfa156b037866cd35b3ca2ca0','sha256:edfdc3366d48256196e622a7c8d50db4de01defbf177362944e50a27936204dd');
INSERT INTO "events" VALUES(6,'2026-11-21T20:31:02.204037Z','alias','math@1',2,'{"alias":"best","before":null}','sha256:edfdc3366d48256196e622a7c8d50db4de01defbf177362944e50a27936204dd','sha256:166d3bb99b27d1415f185db84b21acbd335206a82fcc6923ab1106f1ee376c0b');
INSERT INTO "events" VALUES(7,'2026-11-21T20:31:02.207355Z','measure','math@1+code@1',NULL,'{"metric":["barrier","",null,0.25],"versions":[2,3]}','sha256:166d3bb99b27d1415f185db84b21acbd335206a82fcc6923ab1106f1ee376c0b','sha256:4cde8a6c57b2106ada30403daf0a1254552c9a54a9df7eddc122b41478bc3520');
INSERT INTO "events" VALUES(8,'2026-11-21T20:31:02.211015Z','add','gone@1',5,'{"digest":"sha256:7c243210db69801b282b657d92e9f083d5829c8e54318b288f3dbce355bee822","files":{"model.safetensors":"flat:f13ee6ed54ea2aae9fc49a9faeb5da6e8ddef0e12ed5d30d35a624ae813e0485"},"kind":"expert"}','sha256:4cde8a6c57b2106ada30403daf0a1254552c9a54a9df7eddc122b41478bc3520','sha256:a8d41dd62d0f0a95fa8ec0410e1b754835a687d24e295d8a0e40800a3dab4aeb');
INSERT INTO "events" VALUES(9,'2026-11-21T20:31:02.213942Z','remove','gone@1',5,'{"reason":"wrong file"}','sha256:a8d41dd62d0f0a95fa8ec0410e1b754835a687d24e295d8a0e40800a3dab4aeb','sha256:a99d15a00620fd4003cb23588621cca70a2854d969bb7537a6ef499b4e73e46b');
CREATE TABLE files (
	version_id INTEGER NOT NULL,
	path TEXT NOT NULL,
	object TEXT NOT NULL,
	bytes INTEGER NOT NULL,
	CONSTRAINT pk_files PRIMARY KEY (version_id, path),
	CONSTRAINT fk_files_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id)
)
 WITHOUT ROWID,
 STRICT

;
INSERT INTO "files" VALUES(1,'model.safetensors','flat:7c9fa136d4413fa6173637e883b6998d32e1d675f88cddff9dcbcf331820f4b8',140);
INSERT INTO "files" VALUES(2,'model.safetensors','flat:d86e8112f3c4c4442126f8e9f44f16867da487f29052bf91b810457db34209a4',140);
INSERT INTO "files" VALUES(3,'model.safetensors','flat:35be322d094f9d154a8aba4733b8497f180353bd7ae7b0a15f90b586b549f28b',140);
INSERT INTO "files" VALUES(4,'model.safetensors','flat:f0a0278e4372459cca6159cd5e71cfee638302a7b9ca9b05c34181ac0a65ac5d',140);
INSERT INTO "files" VALUES(5,'model.safetensors','flat:f13ee6ed54ea2aae9fc49a9faeb5da6e8ddef0e12ed5d30d35a624ae813e0485',140);
CREATE TABLE group_metrics (
	set_id INTEGER NOT NULL,
	name TEXT NOT NULL,
	split TEXT NOT NULL,
	value REAL NOT NULL,
	stderr REAL,
	dataset TEXT NOT NULL,
	protocol TEXT NOT NULL,
	environment TEXT NOT NULL,
	tool TEXT NOT NULL,
	recorded_at TEXT NOT NULL,
	CONSTRAINT pk_group_metrics PRIMARY KEY (set_id, name, split),
	CONSTRAINT fk_group_metrics_set_id_version_sets FOREIGN KEY(set_id) REFERENCES version_sets (id)
)
 STRICT

;
INSERT INTO "group_metrics" VALUES(1,'barrier','',0.25,NULL,'','{"points":5}','{}','','2026-11-21T20:31:02.207355Z');
CREATE TABLE manifests (
	id INTEGER NOT NULL,
	digest TEXT NOT NULL,
	parameters INTEGER NOT NULL,
	bytes INTEGER NOT NULL,
	tensors BLOB NOT NULL,
	CONSTRAINT pk_manifests PRIMARY KEY (id),
	CONSTRAINT uq_manifests_digest UNIQUE (digest)
)
 STRICT

;
INSERT INTO "manifests" VALUES(1,'sha256:31be1ff96066bb2b5464e8a25319a4b44cab4c87f0266712ca4eb04dc3bd712e',6,40,X'789C45CD310E03210C44D1BBB8A630D8E02507889433200A636CA54F91EB87AD32ED97DE8C010B12BC1A431A6526F8BCB5D4F65867AA050B62AEDE6AAEB8C8CD24F71C5D5AD5DA171B9906566717EABC02D53751382BCC34E07BE427955B4EF4B7798B708BECFDE8C86CCB73D94C8D2D1636BB2FA29F424C57688879B9368684888A7498F307765A30D7');
INSERT INTO "manifests" VALUES(2,'sha256:11e9e87ede4ed3667076a2e83e7453f21ae37f97e68ce8feb475ec2bdd124fb6',6,40,X'789C45CDBD1182210C00D05D525384901F7000EF9C81FB0A42C8D95BB8BE5AB9C07B73824381873294495781D77391E84D55D93096999F745D2962CB22EA914634D8565677ACDDB2C6A6CEE8DB445417764731B8CA84F757BE37FAC9A5FDED6054DE191E42639C91FD50B4B3377DB3D63D194989D09259B2C7DEC3D99346AA76AE0AD7F5015A5030D8');
INSERT INTO "manifests" VALUES(3,'sha256:c174fb7ad253bd5f83f73d434dadd4c8dd1788454635da096a8f31f8aac96929',6,40,X'789C45CCB111C3300800C05DA8555880249C01729719742A40C0B94F91F5E354A9BEFB39C1A0C0AB339489ABC0FB526CFD41E9D25B354B62E3214E4349B693D4B40CDC520FA3384734A96EBDABA8C54D849D14035699F0B9E727E16F2EF4BFBDB276B1D1E4D822554D73A4311A1D8D0945863B6E6CB813771755E63BE7103BD5AB25ACF505BE853217');
INSERT INTO "manifests" VALUES(4,'sha256:0b88c833677b88d9f385027ec3e24a32e37ace723230d4d7cbbeb7ef74fae666',6,40,X'789C45CE318E43310804D0BB50BBE003E6E31C2052CE60B9B0C128FD167BFD3855DAD1CCD3F40E0B0ABC54A0741A05FEDE93AA3E2CEB8E4BE6CD3C2FE7742635DA165596B42024D5493BB2E2099DE5F2652EC8B974D3BC61940EFF477E327DE5C23F9B6BE3332042436F3B2CB09220B1869A50ECBC25D66E5E5532EDF4AE746C88E78F4E4518E30334672FB3');
INSERT INTO "manifests" VALUES(5,'sha256:7c243210db69801b282b657d92e9f083d5829c8e54318b288f3dbce355bee822',6,40,X'789C45CCBD1182210C00D05D52538484107000EF9C81FB8AFCC0D95BB8BE5AF906786B814381476F50165D055E4F23E9B7816936C79EA733C6364D543AE1E152CD538DC8AC4E76D6995C71566B5D355BE6A1EE0A5759F0FECE77A6DF5CF87FEFD4812847287B8D83C2124C3C7DDB1036CED823C876DF313CEDA4686DA31956CC5127C1757D00BAD63195');
CREATE TABLE metrics (
	version_id INTEGER NOT NULL,
	name TEXT NOT NULL,
	split TEXT NOT NULL,
	value REAL NOT NULL,
	stderr REAL,
	dataset TEXT NOT NULL,
	protocol TEXT NOT NULL,
	environment TEXT NOT NULL,
	tool TEXT NOT NULL,
	recorded_at TEXT NOT NULL,
	CONSTRAINT pk_metrics PRIMARY KEY (version_id, name, split),
	CONSTRAINT fk_metrics_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id)
)
 STRICT

;
INSERT INTO "metrics" VALUES(2,'accuracy','test',0.75,0.01,'math','{"shots":4}','{"torch":"2"}','t','2026-11-21T20:31:02.193138Z');
CREATE TABLE run_inputs (
	run_id TEXT NOT NULL,
	role TEXT NOT NULL,
	position INTEGER NOT NULL,
	version_id INTEGER NOT NULL,
	digest TEXT NOT NULL,
	weight REAL,
	CONSTRAINT pk_run_inputs PRIMARY KEY (run_id, role, position),
	CONSTRAINT fk_run_inputs_run_id_runs FOREIGN KEY(run_id) REFERENCES runs (id),
	CONSTRAINT fk_run_inputs_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id)
)
 WITHOUT ROWID,
 STRICT

;
INSERT INTO "run_inputs" VALUES('11111111-1111-4111-8111-111111111111','base',0,1,'sha256:31be1ff96066bb2b5464e8a25319a4b44cab4c87f0266712ca4eb04dc3bd712e',NULL);
INSERT INTO "run_inputs" VALUES('11111111-1111-4111-8111-111111111111','expert',0,2,'sha256:11e9e87ede4ed3667076a2e83e7453f21ae37f97e68ce8feb475ec2bdd124fb6',0.5);
INSERT INTO "run_inputs" VALUES('11111111-1111-4111-8111-111111111111','expert',1,3,'sha256:c174fb7ad253bd5f83f73d434dadd4c8dd1788454635da096a8f31f8aac96929',0.5);
CREATE TABLE runs (
	id TEXT NOT NULL,
	kind TEXT NOT NULL,
	method TEXT NOT NULL,
	method_version TEXT NOT NULL,
	plugin TEXT NOT NULL,
	plugin_version TEXT NOT NULL,
	code_hash TEXT NOT NULL,
	seed INTEGER NOT NULL,
	recipe TEXT NOT NULL,
	recipe_digest TEXT NOT NULL,
	selection TEXT,
	environment TEXT NOT NULL,
	timings TEXT NOT NULL,
	started_at TEXT NOT NULL,
	ended_at TEXT NOT NULL,
	CONSTRAINT pk_runs PRIMARY KEY (id)
)
 STRICT

;
INSERT INTO "runs" VALUES('11111111-1111-4111-8111-111111111111','merge','ties','1.0.0','zoo-registry','0.1.0','sha256:2222222222222222222222222222222222222222222222222222222222222222',7,'{"density":0.2,"method":"ties","name":"ü"}','sha256:1111111111111111111111111111111111111111111111111111111111111111','{"frozen":["math@1","code@1"],"where":"task = ''math''"}','{"python":"3.11"}','{"execute":0.5}','2025-01-01T00:00:00Z','2025-01-01T00:00:01Z');
CREATE TABLE tags (
	version_id INTEGER NOT NULL,
	"key" TEXT NOT NULL,
	value TEXT NOT NULL,
	number REAL,
	CONSTRAINT pk_tags PRIMARY KEY (version_id, "key"),
	CONSTRAINT fk_tags_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id)
)
 WITHOUT ROWID,
 STRICT

;
INSERT INTO "tags" VALUES(1,'n','3',3.0);
INSERT INTO "tags" VALUES(1,'owner','me',NULL);
CREATE TABLE version_set_members (
	set_id INTEGER NOT NULL,
	version_id INTEGER NOT NULL,
	CONSTRAINT pk_version_set_members PRIMARY KEY (set_id, version_id),
	CONSTRAINT fk_version_set_members_set_id_version_sets FOREIGN KEY(set_id) REFERENCES version_sets (id),
	CONSTRAINT fk_version_set_members_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id)
)
 WITHOUT ROWID,
 STRICT

;
INSERT INTO "version_set_members" VALUES(1,2);
INSERT INTO "version_set_members" VALUES(1,3);
CREATE TABLE version_sets (
	id INTEGER NOT NULL,
	"key" TEXT NOT NULL,
	CONSTRAINT pk_version_sets PRIMARY KEY (id),
	CONSTRAINT uq_version_sets_key UNIQUE ("key")
)
 STRICT

;
INSERT INTO "version_sets" VALUES(1,'46584c88c62d575eca10a01b7c96b76ee70c876d24e57e8448b4fade22eba959');
CREATE TABLE versions (
	id INTEGER NOT NULL,
	entry_id INTEGER NOT NULL,
	number INTEGER NOT NULL,
	kind TEXT NOT NULL,
	manifest_id INTEGER NOT NULL,
	base_id INTEGER,
	run_id TEXT,
	task TEXT,
	phase TEXT,
	license TEXT,
	architecture TEXT,
	source TEXT NOT NULL,
	notes TEXT NOT NULL,
	created_at TEXT NOT NULL,
	removed_at TEXT,
	removed_reason TEXT,
	CONSTRAINT pk_versions PRIMARY KEY (id),
	CONSTRAINT fk_versions_base_id_versions FOREIGN KEY(base_id) REFERENCES versions (id),
	CONSTRAINT fk_versions_entry_id_entries FOREIGN KEY(entry_id) REFERENCES entries (id),
	CONSTRAINT fk_versions_manifest_id_manifests FOREIGN KEY(manifest_id) REFERENCES manifests (id),
	CONSTRAINT fk_versions_run_id_runs FOREIGN KEY(run_id) REFERENCES runs (id),
	CONSTRAINT uq_versions_entry_id_number UNIQUE (entry_id, number)
)
 STRICT

;
INSERT INTO "versions" VALUES(1,1,1,'base',1,NULL,NULL,NULL,NULL,'apache-2.0',NULL,'','{}','2026-11-21T20:31:02.183023Z',NULL,NULL);
INSERT INTO "versions" VALUES(2,2,1,'expert',2,1,NULL,'math','IV-B',NULL,NULL,'','{}','2026-11-21T20:31:02.193138Z',NULL,NULL);
INSERT INTO "versions" VALUES(3,3,1,'expert',3,1,NULL,'code',NULL,NULL,NULL,'','{}','2026-11-21T20:31:02.197269Z',NULL,NULL);
INSERT INTO "versions" VALUES(4,4,1,'merge',4,1,'11111111-1111-4111-8111-111111111111',NULL,NULL,NULL,NULL,'','{}','2026-11-21T20:31:02.200465Z',NULL,NULL);
INSERT INTO "versions" VALUES(5,5,1,'expert',5,NULL,NULL,NULL,NULL,NULL,NULL,'','{}','2026-11-21T20:31:02.211015Z','2026-11-21T20:31:02.213942Z','wrong file');
CREATE TABLE zoo (
	id INTEGER NOT NULL,
	store TEXT NOT NULL,
	uuid TEXT NOT NULL,
	created_at TEXT NOT NULL,
	audit_sequence INTEGER NOT NULL,
	audit_hash TEXT NOT NULL,
	CONSTRAINT pk_zoo PRIMARY KEY (id),
	CONSTRAINT ck_zoo_one_row CHECK (id = 1)
)
 STRICT

;
INSERT INTO "zoo" VALUES(1,'registry.store','ffca2520-02da-4457-bc3d-3d9518456732','2026-11-21T20:31:02.178246Z',9,'sha256:a99d15a00620fd4003cb23588621cca70a2854d969bb7537a6ef499b4e73e46b');
CREATE TABLE zoo_schema (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT zoo_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "zoo_schema" VALUES('0001');
CREATE INDEX ix_runs_method ON runs (method);
CREATE INDEX ix_runs_recipe_digest ON runs (recipe_digest);
CREATE INDEX ix_versions_base_id ON versions (base_id);
CREATE INDEX ix_versions_manifest_id ON versions (manifest_id);
CREATE INDEX ix_versions_run_id ON versions (run_id);
CREATE INDEX ix_versions_task ON versions (task);
CREATE INDEX ix_alias_history_entry_id ON alias_history (entry_id);
CREATE INDEX ix_aliases_version_id ON aliases (version_id);
CREATE INDEX ix_edges_parent_id_child_id ON edges (parent_id, child_id);
CREATE INDEX ix_files_object ON files (object);
CREATE INDEX ix_metrics_name_split_value_version_id ON metrics (name, split, value, version_id);
CREATE INDEX ix_run_inputs_version_id ON run_inputs (version_id);
CREATE INDEX ix_tags_key_number_version_id ON tags ("key", number, version_id) WHERE number IS NOT NULL;
CREATE INDEX ix_tags_key_value_version_id ON tags ("key", value, version_id);
CREATE INDEX ix_version_set_members_version_id ON version_set_members (version_id);
COMMIT;
