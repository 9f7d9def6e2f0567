/** `holdfast fsck` as an administrator runs it: on real devices, after real work, by its exit status and its JSON. */

import assert from 'node:assert/strict';
import { closeSync, openSync, readSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import type { Fid } from '../../src/base/ids.js';
import { nodeChecksum } from '../../src/runtime/node_checksum.js';
import { fidKey, KEY } from '../../src/storage/format/keys.js';
import { decodeInode, encodedInode } from '../../src/storage/format/records.js';
import { metaMedium } from '../../src/storage/meta/lmdb_store.js';
import { ChecksummedDatabase } from '../../src/storage/meta/record_checksums.js';
import { O } from '../fixtures/agent.js';
import type { Finished } from '../fixtures/child.js';
import { type Cluster, startCluster } from '../fixtures/cluster.js';
import { loopsUnder } from '../fixtures/leftovers.js';
import { until } from '../fixtures/until.js';

const SMALL = { metaBytes: 64 << 20, dataBytes: 64 << 20 };

function fsck(cluster: Cluster, ...args: string[]): Promise<Finished> {
  return cluster.cli(['fsck', ...cluster.deviceArgs, ...args]);
}

/** Loop devices go with the process that held them; only then do files show what devices hold. */
const released = (cluster: Cluster): Promise<unknown> =>
  until('the devices are released', () => loopsUnder(cluster.folder).length === 0);

/** Two files and a directory, durable; mount and server are gone. @returns the inode of `dir/file`. */
async function served(cluster: Cluster, stop: 'clean' | 'kill'): Promise<Fid> {
  const agent = cluster.agent();
  await agent.mkdir('dir');
  await agent.writeFile('dir/file', 'x'.repeat(20_000));
  await agent.writeFile('small', 'inline');
  const fd = await agent.open('dir/file', O.RDONLY);
  await agent.fsync(fd);
  const { ino } = await agent.stat('dir/file');
  await agent.close(fd);
  agent.child.kill('SIGKILL');
  await agent.child.exited;
  for (const mount of cluster.mounts) await cluster.umount(mount);
  if (stop === 'clean') await cluster.shutdown();
  else await cluster.killServer();
  await released(cluster);
  return Number(ino) as Fid;
}

/** Damages a text wherever it lies on a device: the database keeps old pages too. */
function overwrite(path: string, text: string): void {
  const file = openSync(path, 'r+');
  const bytes = Buffer.alloc(1 << 20);
  let found = 0;
  for (let offset = 0; offset < statSync(path).size; offset += bytes.length) {
    readSync(file, bytes, 0, bytes.length, offset);
    for (let at = bytes.indexOf(text); at >= 0; at = bytes.indexOf(text, at + text.length)) {
      writeSync(file, Buffer.from([0]), 0, 1, offset + at);
      found++;
    }
  }
  closeSync(file);
  assert.ok(found > 0, `${text} is on ${path}`);
}

test('a target in use is refused with who has it; after it was served it is clean', async (t) => {
  const cluster = await startCluster(t, SMALL);
  const refused = await fsck(cluster);
  assert.equal(refused.code, 8);
  assert.match(
    refused.stderr,
    /^holdfast: \S+data\.img is in use: a server on \S+ \(pid \d+\) has it since .*$/m,
  );
  await served(cluster, 'clean');
  const clean = await fsck(cluster, '--checksums');
  assert.deepEqual([clean.code, clean.stdout.trimEnd().split('\n').at(-1)], [0, 'clean']);
  assert.match(
    clean.stdout,
    /^test \(\S+\): stopped cleanly\n4 inodes, 2 of them directories; 3 names; 0 orphans; /,
  );
  const json = JSON.parse((await fsck(cluster, '--checksums', '--json')).stdout);
  assert.deepEqual(
    { ...json, target: json.target.label, counts: json.counts.checksums },
    {
      exitStatus: 0,
      target: 'test',
      counts: 5,
      findings: [],
      repaired: 0,
      left: 0,
      repairable: 0,
      rounds: 1,
    },
  );
  await cluster.serve();
  await cluster.addMount();
  assert.equal(await cluster.agent(1).readFile('small'), 'inline');
});

test('a killed server left a target that is sound, and that is not repaired before its clients came back', async (t) => {
  const cluster = await startCluster(t, SMALL);
  await served(cluster, 'kill');
  const found = await fsck(cluster);
  assert.equal(found.code, 0, found.stdout);
  assert.match(
    found.stdout,
    /^test \(\S+\): not stopped cleanly \(version \S+\): clients may still have changes\n/,
  );
  const refused = await fsck(cluster, '--repair');
  assert.equal(refused.code, 8);
  assert.match(refused.stderr, /^holdfast: test was not stopped cleanly: .*--force repairs it as it is$/m);
  assert.equal((await fsck(cluster, '--repair', '--force')).code, 0);
});

test('damage is named with its path, repaired where there is nothing to guess, and the status says so', async (t) => {
  const cluster = await startCluster(t, { ...SMALL, damages: true });
  const fid = await served(cluster, 'clean');
  const { meta, data } = cluster.devices;
  const medium = metaMedium({
    metaPath: meta,
    metaSizeBytes: SMALL.metaBytes,
    runtimeDir: join(cluster.folder, 'damage'),
  });
  const checksums = { write: true, required: true };
  const db = new ChecksummedDatabase(medium.open(), nodeChecksum, checksums);
  const before = db.get(fidKey(KEY.inode, fid));
  assert(before !== undefined);
  const value = encodedInode({ ...decodeInode(fid, before), nlink: 5 });
  await db.commit((writer) => writer.put(fidKey(KEY.inode, fid), value));
  await db.close();

  const found = await fsck(cluster);
  assert.deepEqual(
    [found.code, found.stderr.trimEnd().split('\n').at(-1)],
    [4, 'holdfast: 1 errors left, --repair repairs 1 of them'],
  );
  assert.ok(
    found.stdout.includes(`\nlink-count: inode ${fid} has the link count 5, but 1 links ("/dir/file")\n`),
    found.stdout,
  );
  const repaired = await fsck(cluster, '--repair');
  assert.equal(repaired.code, 1);
  assert.ok(repaired.stdout.includes('but 1 links ("/dir/file"): set to 1'), repaired.stdout);
  assert.equal((await fsck(cluster)).code, 0);

  await released(cluster);
  overwrite(data, 'xxxxxxxx');
  assert.equal((await fsck(cluster)).code, 0, 'content is not looked at');
  const content = JSON.parse((await fsck(cluster, '--checksums', '--repair', '--json')).stdout);
  assert.deepEqual(
    [content.exitStatus, content.findings.length, content.findings[0].kind, content.findings[0].path],
    [4, 1, 'checksum', '/dir/file'],
  );
});

test('a damaged page of the database is one line and status 4, never a crash', async (t) => {
  const cluster = await startCluster(t, { ...SMALL, damages: true });
  await served(cluster, 'clean');
  overwrite(cluster.devices.meta, 'HFsuper1');
  const found = await fsck(cluster, '--repair');
  assert.equal(found.code, 4, found.stderr);
  assert.match(found.stdout, /^superblock: the superblock on \S+meta\.img is damaged$/m);
});

test('what cannot be done has status 8, a wrong command line 16', async (t) => {
  const cluster = await startCluster(t, { ...SMALL, mounts: 0 });
  await cluster.shutdown();
  const { meta, data } = cluster.devices;
  const swapped = await cluster.cli(['fsck', '--meta', data, '--data', meta, '--json']);
  assert.equal(swapped.code, 8);
  assert.match(
    JSON.parse(swapped.stdout).error,
    /is a Holdfast data device; it was given as the meta device$/,
  );
  assert.equal((await cluster.cli(['fsck', '--meta', meta])).code, 16);
});
