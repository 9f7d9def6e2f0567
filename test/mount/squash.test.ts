/**
 * Mounts whose entry of the access table squashes root, or may change nothing: what programs of users and of root see there is what
 * they would see on a local filesystem, with root as nobody.
 */

import assert from 'node:assert/strict';
import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { packageRoot } from '../../native/binding.js';
import { type Agent, LOCK, O } from '../fixtures/agent.js';
import { run } from '../fixtures/child.js';
import { type Cluster, startCluster } from '../fixtures/cluster.js';

const NOBODY = 65_534;
const USER = { uid: 1001, gid: 1001 } as const;

/** Mount 0 is root's of the server's host; mount 1 comes with a key. */
async function squashedCluster(
  t: TestContext,
  args: readonly string[] = [],
  faults = false,
): Promise<Cluster> {
  const cluster = await startCluster(t, { mounts: 1, faults, limitMs: 150_000 });
  chmodSync(cluster.folder, 0o755);
  const key = join(cluster.folder, 'web.key');
  await cluster.cliOk(['access', 'add', 'web', '--server', cluster.address, '--output', key, ...args]);
  await cluster.addMount([`key=${key}`]);
  return cluster;
}

function dirOf(cluster: Cluster, index: number): string {
  const mount = cluster.mounts[index];
  assert.ok(mount !== undefined);
  return mount.dir;
}

async function user(
  cluster: Cluster,
  ids: { uid: number; gid: number; groups?: readonly number[] } = USER,
): Promise<Agent> {
  const agent = cluster.agent(1);
  await agent.call('setids', { groups: [], ...ids });
  return agent;
}

async function codeOf(call: Promise<unknown>): Promise<string> {
  return call.then(
    () => 'ok',
    (error: { readonly code?: string }) => error.code ?? String(error),
  );
}

test('users, groups, ACLs and root: each call ends as on a local filesystem where root is nobody', async (t) => {
  const cluster = await squashedCluster(t);
  const script = join(packageRoot(), 'test', 'fixtures', 'user_calls.py');
  const local = join(cluster.folder, 'local');
  mkdirSync(local);
  const root = cluster.agent(0);
  await root.call('mkdir', { path: 'work', mode: 0o755 });
  const expected = await run('python3', [script, local, local, `${NOBODY}`]);
  const paths = [join(dirOf(cluster, 0), 'work'), join(dirOf(cluster, 1), 'work')];
  const found = await run('python3', [script, ...paths, '0'], { timeoutMs: 60_000 });
  assert.deepEqual([expected.code, found.code], [0, 0], expected.stderr + found.stderr);
  const lines = (text: string): string[] => text.trim().split('\n');
  assert.ok(lines(expected.stdout).length > 800, 'the calls are many');
  const all = lines(found.stdout);
  const differ = lines(expected.stdout).flatMap((line, index) =>
    line === all[index] ? [] : [`${line}, here ${all[index]}`],
  );
  // The client knows without asking that a file has no such attribute, and its kernel lets root ask.
  assert.deepEqual(differ, [`${NOBODY} getxattr root-600 EACCES, here ${NOBODY} getxattr root-600 ENODATA`]);
});

for (const how of ['crash', 'upgrade'] as const) {
  test(`open files of users survive a${how === 'crash' ? '' : 'n'} ${how}: unlinked, closed to them, given away, dirty, locked`, async (t) => {
    const cluster = await squashedCluster(t, [], true);
    const root = cluster.agent(0);
    await root.call('mkdir', { path: 'work', mode: 0o777 });
    await root.call('chmod', { path: 'work', mode: 0o777 });
    await root.call('chmod', { path: '.', mode: 0o755 });
    const one = await user(cluster);
    const open = (path: string, flags: number): Promise<number> => one.open(`work/${path}`, flags, 0o600);
    const write = (fd: number, text: string): Promise<unknown> => one.pwrite(fd, 0, text);
    const gone = await open('gone', O.RDWR | O.CREAT);
    const shut = await open('shut', O.RDWR | O.CREAT);
    const given = await open('given', O.RDWR | O.CREAT);
    const nameless = await open('', O.RDWR | O.TMPFILE);
    for (const fd of [gone, shut, given, nameless]) await write(fd, 'before');
    await one.call('flock', { fd: gone, operation: LOCK.EX });
    await one.call('unlink', { path: 'work/gone' });
    await one.call('chmod', { path: 'work/shut', mode: 0 });
    await root.call('chown', { path: 'work/given', uid: 0, gid: 0 });
    await root.call('chmod', { path: 'work/given', mode: 0o600 });
    // What others changed and is not durable would be waited for.
    await root.fsync(await root.open('work', O.RDONLY));
    if (how === 'crash') await cluster.hold();
    for (const fd of [gone, shut, given, nameless]) await write(fd, 'after!');
    // Written and answered, and not durable; and what is only in the cache.
    await one.ftruncate(shut, 5);
    await one.ftruncate(given, 4);
    await one.writeFile('work/closed', 'closed again');
    await one.call('mkdir', { path: 'work/made', mode: 0o700 });
    if (how === 'crash') await cluster.crash();
    else await cluster.upgrade();
    const read = (fd: number): Promise<unknown> => one.pread(fd, 0, 20);
    const texts = await Promise.all([gone, shut, given, nameless].map(read));
    assert.deepEqual(texts, ['after!', 'after', 'afte', 'after!']);
    for (const fd of [gone, shut, given, nameless]) {
      await write(fd, 'later');
      await one.fsync(fd);
    }
    assert.equal(await codeOf(one.open('work/given', O.RDONLY)), 'EACCES');
    assert.equal(await codeOf(one.open('work/shut', O.RDONLY)), 'EACCES');
    assert.equal(await root.readFile('work/closed'), 'closed again');
    assert.equal((await root.stat('work/made')).uid, USER.uid);
    assert.deepEqual((await cluster.mountStatus(cluster.mounts[1])).targets[0]?.evictions, []);
  });
}

test('programs of a user: git and tar, and what they make is theirs', async (t) => {
  const cluster = await squashedCluster(t);
  const root = cluster.agent(0);
  await root.call('chmod', { path: '.', mode: 0o755 });
  await root.call('mkdir', { path: 'home', mode: 0o700 });
  await root.call('chown', { path: 'home', ...USER });
  const home = join(dirOf(cluster, 1), 'home');
  const script = `
    set -e
    export HOME=${home} GIT_CONFIG_NOSYSTEM=1
    cd ${home}
    git init -q repo && cd repo
    git config user.name u && git config user.email u@example.org
    for i in $(seq 50); do echo $i > file$i; done
    git add . && git commit -q -m one && git gc -q && git fsck --strict
    cd .. && tar cf all.tar repo && mkdir out && tar xf all.tar -C out && diff -r repo out/repo
    git clone -q repo copy && git -C copy log --oneline | wc -l
    find . ! -user 1001 | wc -l`;
  const done = await run('setpriv', ['--reuid=1001', '--regid=1001', '--clear-groups', 'sh', '-c', script], {
    timeoutMs: 60_000,
  });
  assert.equal(done.code, 0, done.stdout + done.stderr);
  assert.equal(done.stdout.trim(), '1\n0');
});

for (const args of [['--read-only'], ['--read-only', '--no-root-squash']]) {
  test(`a mount whose entry may change nothing (${args.join(' ')}) is read-only, and stays so`, async (t) => {
    const cluster = await squashedCluster(t, args);
    const root = cluster.agent(0);
    await root.writeFile('f', 'text');
    await root.call('chmod', { path: 'f', mode: 0o666 });
    await root.call('mkdir', { path: 'd', mode: 0o777 });
    const reader = cluster.agent(1);
    const all = async (): Promise<string[]> => [
      await codeOf(reader.open('f', O.WRONLY)),
      await codeOf(reader.open('d/new', O.RDWR | O.CREAT)),
      await codeOf(reader.call('mkdir', { path: 'd/new', mode: 0o700 })),
      await codeOf(reader.call('unlink', { path: 'f' })),
      await codeOf(reader.call('rename', { path: 'f', to: 'g' })),
      await codeOf(reader.call('chmod', { path: 'f', mode: 0o600 })),
      await codeOf(reader.call('truncate', { path: 'f', length: 0 })),
      await codeOf(reader.call('utimens', { path: 'f', atimeNs: '1', mtimeNs: '1' })),
      await codeOf(reader.call('setxattr', { path: 'f', name: 'user.a', value: 'v' })),
    ];
    assert.deepEqual(await all(), Array(9).fill('EROFS'));
    assert.equal(await reader.readFile('f'), 'text');
    // The kernel lets writers through from now on, and the server does not.
    const done = await run('mount', ['-i', '-o', 'remount,rw', dirOf(cluster, 1)]);
    assert.equal(done.code, 0, done.stderr);
    assert.deepEqual(await all(), Array(9).fill('EROFS'));
    await root.writeFile('f', 'other');
    assert.equal(await reader.readFile('f'), 'other');
  });
}
