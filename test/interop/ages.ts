/** A server and mounts of two versions: this tree, and release 0.1 built from git. */

import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { type Cluster, prepareCluster } from '../fixtures/cluster.js';
import { type Tree, thisTree } from '../fixtures/installed_tree.js';
import { lacksCommit, treeOf } from '../fixtures/old_tree.js';
import { RELEASE_0_1 } from '../fixtures/releases.js';

export const skip = lacksCommit(RELEASE_0_1.commit);

export type Age = 'old' | 'new';
/** Clients of release 0.1 know neither keys nor Unix sockets, so a server of this tree must be told to take them. */
export const FOR_ALL = ['--tls=off', '--from', '127.0.0.0/8'];
export const treeFor = (age: Age): Tree =>
  age === 'old'
    ? treeOf(RELEASE_0_1.commit)
    : { ...thisTree(), serveArgs: FOR_ALL, mountOptions: ['tls=off'] };

/** mkfs and serve by one version, a mount of each of the others. */
export async function cluster(t: TestContext, server: Age, mounts: readonly Age[]): Promise<Cluster> {
  const made = prepareCluster(t);
  // The old version serves it too, sooner or later.
  const compatible = server === 'new' ? ['--no-record-checksums'] : [];
  await made.cliOk(['mkfs', ...made.deviceArgs, ...compatible], treeFor(server));
  await made.serve({ tree: treeFor(server) });
  for (const age of mounts) await made.addMount([], treeFor(age));
  return made;
}

/** What the server says of its clients' versions, sorted. */
export async function clientVersions(made: Cluster): Promise<string[]> {
  return (await made.status()).clients.map((client) => client.softwareVersion).sort();
}

/** Why each evicted client was, by its version at the time. */
export async function evictedWithReason(made: Cluster): Promise<string[]> {
  const { evicted } = await made.status();
  for (const { name, reason } of evicted) assert.ok(reason.length > 10, `${name}: ${reason}`);
  return evicted.map(({ name }) => name);
}
