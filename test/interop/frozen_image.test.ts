/** The disk of release 0.1 is upgraded by being served: everything on it is there on a mount, and stays. */

import assert from 'node:assert/strict';
import test from 'node:test';
import type { Agent } from '../fixtures/agent.js';
import { prepareCluster } from '../fixtures/cluster.js';
import { type FrozenEntry, frozenContents, unpackImage } from '../fixtures/frozen_image.js';
import { RELEASE_0_1 } from '../fixtures/releases.js';
import { until } from '../fixtures/until.js';

/** As it is now, with the fields of what was frozen. */
async function asItIs(agent: Agent, frozen: FrozenEntry): Promise<FrozenEntry> {
  const { path } = frozen;
  const { ino, mode, nlink, uid, gid, size, blocks, rdev, mtimeNs, ctimeNs } = await agent.lstat(path);
  const xattrs: Record<string, string> = {};
  if (frozen.target === undefined) {
    for (const name of await agent.call<string[]>('listxattr', { path })) {
      xattrs[name] = await agent.call<string>('getxattr', { path, name });
    }
  }
  return {
    ...{ path, ino, mode, nlink, uid, gid, size, blocks, rdev, mtimeNs, ctimeNs, xattrs },
    ...(frozen.target === undefined ? {} : { target: await agent.readlink(path) }),
    ...(frozen.sha256 === undefined ? {} : { sha256: await agent.call<string>('sha256', { path }) }),
  };
}

/** Release 0.1 counted content that lies in the database in sectors; whole blocks are shown since. */
function asShown(entry: FrozenEntry): FrozenEntry {
  return { ...entry, blocks: 8 * Math.ceil(entry.blocks / 8) };
}

/** A regular file whose content does not lie in the database (docs/ONDISK.md: at most 4032 bytes do). */
function hasBlocks({ sha256, size }: FrozenEntry): boolean {
  return sha256 !== undefined && (size === 0 || size > 4032);
}

/** Names by directory, so that nothing is there that was not. */
function listings(entries: readonly FrozenEntry[]): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const { path, mode } of entries) {
    if ((mode & 0o170000) === 0o040000) found.set(path, []);
    if (path === '') continue;
    const slash = path.lastIndexOf('/');
    found.get(slash < 0 ? '' : path.slice(0, slash))?.push(path.slice(slash + 1));
  }
  return found;
}

test('a target of release 0.1 is served, read, changed and upgraded again', async (t) => {
  const contents = frozenContents(RELEASE_0_1.disk);
  const cluster = prepareCluster(t);
  unpackImage(RELEASE_0_1.disk, cluster.devices);
  await cluster.serve();
  assert.equal(cluster.server.instance, contents.instance + 1);
  // Its last client had a file open that was unlinked, and does not come back.
  const before = await cluster.status();
  assert.deepEqual(
    [before.state, before.orphans, before.clients.map(({ uuid, state }) => [uuid, state])],
    ['recovering', 1, [[contents.client.uuid, 'recovering']]],
  );
  await cluster.cliOk(['evict', cluster.address, contents.client.uuid]);
  // The orphan goes, and so does the rest of the file whose removal had only begun.
  const inUse = new Map(contents.entries.filter(hasBlocks).map(({ ino, blocks }) => [ino, blocks / 8]));
  const expected = [...inUse.values()].reduce((sum, blocks) => sum + blocks, 0);
  await until('what is in use is what has a name', async () => {
    const { state, orphans, blocks, blocksFree } = await cluster.status();
    return state === 'active' && orphans === 0 && blocks - blocksFree === expected;
  });

  await cluster.addMount();
  const agent = cluster.agent();
  const compare = async (): Promise<void> => {
    for (const entry of contents.entries) assert.deepEqual(await asItIs(agent, entry), asShown(entry));
    for (const [directory, names] of listings(contents.entries)) {
      assert.deepEqual((await agent.list(directory)).sort(), names.sort(), directory);
    }
  };
  await compare();
  await cluster.upgrade();
  await compare();
  // Space that was in use when it was frozen is not handed out, and what is free can be used.
  await agent.writeFile('d/new', 'x'.repeat(8_000_000));
  await agent.unlink('d/new');
  for (const entry of contents.entries.filter(({ path }) => path !== 'd')) {
    assert.deepEqual(await asItIs(agent, entry), asShown(entry));
  }
});
