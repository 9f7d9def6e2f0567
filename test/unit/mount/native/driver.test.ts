/** The native driver on a real kernel mount: a filesystem in memory in this process, callers in others. */

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { FuseMount } from '../../../../mount/fuse_mount.js';
import { mountAt } from '../../../../mount/mount_table.js';
import { type NativeMountOptions, startNativeMount } from '../../../../mount/native/driver.js';
import { isMounted, listMounts, unmountPath } from '../../../../mount/unmount.js';
import { FsError } from '../../../../src/base/errno.js';
import type { LockIn, ReadIn, RequestContext } from '../../../../src/fuse/handlers.js';
import { NodeClock, nodeTimers } from '../../../../src/runtime/node_clock.js';
import { Agent, LOCK, O } from '../../../fixtures/agent.js';
import { Child, run, runOk } from '../../../fixtures/child.js';
import { MemoryHandlers } from '../../../fixtures/memory_handlers.js';
import { until, within } from '../../../fixtures/until.js';

const skip = process.getuid?.() === 0 ? false : 'mounting needs root';

/** Reads of parked nodes wait until they are answered or interrupted. */
class ParkingHandlers extends MemoryHandlers {
  readonly parked = new Set<number>();
  readonly #answers: (() => void)[] = [];
  interrupted = 0;
  /** As if there were a server behind it, which is away. */
  isAway = false;

  awayMs(): number {
    return this.isAway ? 60_000 : 0;
  }

  override read(request: RequestContext, nodeid: number, read: ReadIn): readonly Uint8Array[] {
    if (!this.parked.has(nodeid)) return super.read(request, nodeid, read);
    const waiting = new Promise<readonly Uint8Array[]>((resolve, reject) => {
      this.#answers.push(() => resolve(super.read(request, nodeid, read)));
      request.signal.addEventListener('abort', () => {
        this.interrupted += 1;
        reject(request.signal.reason);
      });
    });
    // FuseHandlers allows a promise; the class narrows it to what it needs itself.
    return waiting as unknown as readonly Uint8Array[];
  }

  /** Answers what waits and what comes. */
  unpark(): void {
    this.parked.clear();
    for (const answer of this.#answers.splice(0)) answer();
  }

  nodeidOf(name: string): number {
    return this.nodes.get(1)?.entries.get(name)?.nodeid ?? 0;
  }
}

const DEFAULTS: Omit<NativeMountOptions, 'mountpoint'> = {
  source: 'server:7988',
  intr: 'fatal',
  allowOther: true,
  mountFlags: 0,
  timers: nodeTimers,
  clock: new NodeClock(),
};

/** What was set up last is taken down first; node's own hooks run in the order they were made. */
const cleanups = new WeakMap<TestContext, (() => unknown)[]>();

function afterwards(t: TestContext, cleanup: () => unknown): void {
  const known = cleanups.get(t);
  if (known !== undefined) {
    known.push(cleanup);
    return;
  }
  const stack = [cleanup];
  cleanups.set(t, stack);
  t.after(async () => {
    for (const undo of stack.reverse()) await undo();
  });
}

const agents = new WeakMap<FuseMount, readonly Agent[]>();

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'holdfast-mount-'));
  afterwards(t, () => rmdirSync(path));
  return path;
}

async function mounted(
  t: TestContext,
  handlers: MemoryHandlers,
  options: Partial<NativeMountOptions> = {},
): Promise<FuseMount> {
  const mountpoint = folder(t);
  const mount = await startNativeMount(handlers, { ...DEFAULTS, mountpoint, ...options });
  afterwards(t, async () => {
    await mount.unmount('force');
    await mount.closed;
    // Only now surely free to die: a request of theirs may have been waiting.
    for (const agent of agents.get(mount) ?? []) await within('an agent ends', agent.child.exited);
    assert.equal(mountAt(mountpoint), undefined, 'no mount is left');
  });
  return mount;
}

async function agentOn(t: TestContext, mount: FuseMount): Promise<Agent> {
  const agent = new Agent(mount.mountpoint);
  agents.set(mount, [...(agents.get(mount) ?? []), agent]);
  afterwards(t, () => agent.child.kill('SIGKILL'));
  await agent.call('umask', { mask: 0 });
  return agent;
}

async function untilParked(mount: FuseMount): Promise<void> {
  await until('a request is parked', () => mount.waiting().length > 0);
}

async function failure(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof FsError, String(error));
    assert.ok(!error.message.includes('\n'), 'one line');
    return `${error.code}: ${error.message}`;
  }
  return 'no failure';
}

test('a mount is usable when it is started, and gone when it is unmounted', { skip }, async (t) => {
  const handlers = new MemoryHandlers();
  const mountpoint = folder(t);
  const mount = await startNativeMount(handlers, { ...DEFAULTS, mountpoint });
  const line = readFileSync('/proc/mounts', 'utf8')
    .split('\n')
    .find((entry) => entry.includes(mountpoint));
  assert.match(
    line ?? '',
    new RegExp(`^server:7988 ${mountpoint} fuse\\.holdfast rw,.*default_permissions,allow_other`),
  );
  assert.deepEqual([isMounted(mountpoint), listMounts().includes(mountpoint)], [true, true]);
  const device = mountAt(mountpoint)?.device;
  assert.equal(readFileSync(`/sys/class/bdi/${device}/read_ahead_kb`, 'latin1').trim(), '2048');
  const script = 'cd "$1" && echo hello > x && mkdir -p a/b && mv x a/b/ && cat a/b/x && ls a';
  assert.equal(await runOk('sh', ['-c', script, 'sh', mountpoint]), 'hello\nb');
  await mount.unmount();
  await within('the mount ends', mount.closed);
  assert.deepEqual([isMounted(mountpoint), handlers.destroyed, handlers.openHandleCount], [false, true, 0]);
  await mount.unmount();
});

test('two mounts in one process are served side by side', { skip }, async (t) => {
  const [one, two] = [new MemoryHandlers(), new MemoryHandlers()];
  const a = await agentOn(t, await mounted(t, one));
  const b = await agentOn(t, await mounted(t, two));
  await Promise.all([a.writeFile('f', 'one'), b.writeFile('f', 'two')]);
  assert.deepEqual([await a.readFile('f'), await b.readFile('f')], ['one', 'two']);
});

test('megabytes go through in both directions, unaligned too', { skip }, async (t) => {
  const agent = await agentOn(t, await mounted(t, new MemoryHandlers()));
  const data = Array.from({ length: 300_007 }, (_, i) =>
    String.fromCharCode(97 + (i % 26) + ((i >> 12) % 3)),
  ).join('');
  const fd = await agent.open('big', O.RDWR | O.CREAT);
  for (let i = 0; i < 10; i += 1) await agent.pwrite(fd, i * data.length, data);
  assert.equal(await agent.readFile('big'), data.repeat(10));
});

test('names with any bytes and of 255 bytes', { skip }, async (t) => {
  const agent = await agentOn(t, await mounted(t, new MemoryHandlers()));
  const names = ['x'.repeat(255), 'new\nline', '\u{dcff}\u{dc80}', 'sp ace'];
  for (const name of names) await agent.writeFile(name, 'v');
  assert.deepEqual((await agent.list()).sort(), [...names].sort());
});

test('a mount point that is missing, a file or taken is refused in one line', { skip }, async (t) => {
  const taken = await mounted(t, new MemoryHandlers());
  const mount = (mountpoint: string) => startNativeMount(new MemoryHandlers(), { ...DEFAULTS, mountpoint });
  assert.equal(
    await failure(mount('/no/such/folder')),
    'ENOENT: mount point /no/such/folder does not exist; make it first: mkdir -p /no/such/folder',
  );
  assert.equal(await failure(mount('/etc/passwd')), 'ENOTDIR: mount point /etc/passwd is not a directory');
  assert.equal(
    await failure(mount(`${taken.mountpoint}/`)),
    `EBUSY: ${taken.mountpoint}/ is busy: server:7988 is mounted there; holdfast umount ${taken.mountpoint}/`,
  );
});

test('a mount with open files is not taken away unless forced', { skip }, async (t) => {
  const mount = await mounted(t, new MemoryHandlers());
  const agent = await agentOn(t, mount);
  const fd = await agent.open('f', O.RDWR | O.CREAT);
  assert.match(
    await failure(mount.unmount()),
    /^EBUSY: .* is in use: programs have files or their directory in it$/,
  );
  await mount.unmount('force');
  await within('the mount ends', mount.closed);
  await assert.rejects(agent.pread(fd, 0, 1), /ECONNABORTED|ENOTCONN|EIO/);
});

test('a mount that is detached serves the files that are open until they are closed', { skip }, async (t) => {
  const mount = await mounted(t, new MemoryHandlers());
  const agent = await agentOn(t, mount);
  const fd = await agent.open('f', O.RDWR | O.CREAT);
  await mount.unmount('detach');
  assert.equal(isMounted(mount.mountpoint), false);
  await agent.pwrite(fd, 0, 'still here');
  assert.equal(await agent.pread(fd, 0, 10), 'still here');
  await agent.close(fd);
  await within('the mount ends', mount.closed);
});

test('who unmounts from outside ends the mount', { skip }, async (t) => {
  const handlers = new MemoryHandlers();
  const mount = await mounted(t, handlers);
  await runOk('umount', [mount.mountpoint]);
  await within('the mount ends', mount.closed);
  assert.equal(handlers.destroyed, true);
});

test('pages dirtied through a mapping are written back by an unmount from this very process', {
  skip,
}, async (t) => {
  const handlers = new ParkingHandlers();
  const mount = await mounted(t, handlers);
  const agent = await agentOn(t, mount);
  const fd = await agent.open('mapped', O.RDWR | O.CREAT);
  await agent.ftruncate(fd, 64 * 4096);
  const map = await agent.call<number>('mmap', { fd, length: 64 * 4096 });
  for (let page = 0; page < 64; page += 1) {
    await agent.call('map_write', { map, offset: page * 4096, data: 'dirty' });
  }
  const node = handlers.nodes.get(handlers.nodeidOf('mapped'));
  await mount.unmount('detach');
  agent.child.kill('SIGKILL');
  await within('the mount ends', mount.closed);
  const dirty = Array.from({ length: 64 }, (_, page) =>
    node?.data.toString('latin1', page * 4096, page * 4096 + 5),
  );
  assert.deepEqual(new Set(dirty), new Set(['dirty']));
});

test('a process whose request is parked dies of SIGKILL, SIGINT and SIGTERM while it waits', {
  skip,
}, async (t) => {
  const handlers = new ParkingHandlers();
  const mount = await mounted(t, handlers);
  await (await agentOn(t, mount)).writeFile('f', 'data');
  for (const signal of ['SIGKILL', 'SIGINT', 'SIGTERM'] as const) {
    const agent = await agentOn(t, mount);
    const fd = await agent.open('f', O.RDONLY | O.DIRECT);
    handlers.parked.add(handlers.nodeidOf('f'));
    void agent.pread(fd, 0, 4).catch(() => undefined);
    await untilParked(mount);
    const end = await agent.dies(signal);
    assert.equal(end.signal, signal);
    handlers.unpark();
  }
  assert.equal(handlers.interrupted, 3);
});

test('a call that waits for a server that is away sees EINTR for a caught SIGINT, none for SIGCHLD and SIGUSR1', {
  skip,
}, async (t) => {
  const handlers = new ParkingHandlers();
  const mount = await mounted(t, handlers, { intrGraceMs: 200 });
  const agent = await agentOn(t, mount);
  await agent.writeFile('f', 'data');
  for (const signal of ['SIGCHLD', 'SIGUSR1', 'SIGINT']) await agent.call('catch', { signal });
  const fd = await agent.open('f', O.RDONLY | O.DIRECT);
  handlers.parked.add(handlers.nodeidOf('f'));
  handlers.isAway = true;
  const undisturbed = agent.pread(fd, 0, 4);
  await untilParked(mount);
  agent.signal('SIGCHLD');
  agent.signal('SIGUSR1');
  await until('the kernel asks again about signals that do not matter', () =>
    /SigPnd:\s*0*\n.*ShdPnd:\s*0*[1-9]/s.test(readFileSync(`/proc/${agent.pid}/status`, 'latin1')),
  );
  assert.equal(handlers.interrupted, 0);
  handlers.unpark();
  assert.equal(await undisturbed, 'data');

  handlers.parked.add(handlers.nodeidOf('f'));
  const interrupted = agent.pread(fd, 0, 4);
  await untilParked(mount);
  agent.signal('SIGUSR1');
  agent.signal('SIGINT');
  await assert.rejects(interrupted, { code: 'EINTR' });
  handlers.unpark();
  assert.deepEqual(await agent.call('caught'), { SIGCHLD: 1, SIGUSR1: 2, SIGINT: 1 });
});

test('the kernel asks for flock on regular files, and keeps that on directories and FIFOs to itself', {
  skip,
}, async (t) => {
  const asked: number[] = [];
  class LockHandlers extends MemoryHandlers {
    override setlk(request: RequestContext, nodeid: number, lock: LockIn): void | Promise<void> {
      asked.push(nodeid);
      return super.setlk(request, nodeid, lock);
    }
  }
  const handlers = new LockHandlers();
  const mount = await mounted(t, handlers);
  const [agent, other] = [await agentOn(t, mount), await agentOn(t, mount)];
  await agent.writeFile('f', '');
  await agent.mkdir('d');
  await agent.call('mknod', { path: 'fifo', mode: 0o010666 });
  await agent.flock(await agent.open('f', O.RDWR), LOCK.EX | LOCK.NB);
  assert.deepEqual(asked.splice(0), [handlers.nodes.get(1)?.entries.get('f')?.nodeid]);
  for (const [name, flags] of [
    ['d', O.RDONLY],
    ['fifo', O.RDWR],
  ] as const) {
    await agent.flock(await agent.open(name, flags), LOCK.EX | LOCK.NB);
    await assert.rejects(other.flock(await other.open(name, flags), LOCK.EX | LOCK.NB), { code: 'EAGAIN' });
  }
  assert.deepEqual(asked, [], 'if it asks one day, such locks can be kept across machines');
});

test('with intr=all a caught SIGUSR1 ends a parked call', { skip }, async (t) => {
  const handlers = new ParkingHandlers();
  const mount = await mounted(t, handlers, { intr: 'all' });
  const agent = await agentOn(t, mount);
  await agent.writeFile('f', 'data');
  await agent.call('catch', { signal: 'SIGUSR1' });
  const fd = await agent.open('f', O.RDONLY | O.DIRECT);
  handlers.parked.add(handlers.nodeidOf('f'));
  const interrupted = agent.pread(fd, 0, 4);
  await untilParked(mount);
  agent.signal('SIGUSR1');
  await assert.rejects(interrupted, /EINTR/);
});

test('a page fault is not cut short by a signal that is caught', {
  skip,
}, async (t) => {
  const handlers = new ParkingHandlers();
  const mount = await mounted(t, handlers, { intrGraceMs: 0 });
  handlers.isAway = true;
  const agent = await agentOn(t, mount);
  await agent.writeFile('f', 'mapped data'.padEnd(4096));
  await agent.call('catch', { signal: 'SIGINT' });
  const fd = await agent.open('f', O.RDONLY);
  const map = await agent.call<number>('mmap', { fd, length: 4096, write: false });
  handlers.parked.add(handlers.nodeidOf('f'));
  const fault = agent.call<string>('map_read', { map, offset: 0, length: 6 });
  await until('the read of the fault is parked', () =>
    mount.waiting().some(({ operation }) => operation === 'READ'),
  );
  agent.signal('SIGINT');
  // SIGBUS would end it here; instead it goes on when the page is there.
  await until('the signal is pending', () =>
    /ShdPnd:\s*0*2\n/.test(readFileSync(`/proc/${agent.pid}/status`, 'latin1')),
  );
  handlers.unpark();
  assert.equal(await fault, 'mapped');
});

test('cached attributes, pages and names are believed until they are invalidated', { skip }, async (t) => {
  const handlers = new ParkingHandlers({ entryValidSec: 3600, attrValidSec: 3600 });
  const mount = await mounted(t, handlers);
  const agent = await agentOn(t, mount);
  await agent.writeFile('f', 'before');
  const keep = await agent.open('f', O.RDONLY);
  const nodeid = handlers.nodeidOf('f');
  assert.equal(await agent.pread(keep, 0, 10), 'before');
  await mount.notifier.invalidateAttr(nodeid); // a read makes the kernel ask for atime again
  assert.equal((await agent.stat('f')).size, 6);
  const node = handlers.nodes.get(nodeid);
  assert.ok(node !== undefined);
  node.data = Buffer.from('after');
  node.sizeBytes = 5;
  assert.deepEqual([(await agent.stat('f')).size, await agent.pread(keep, 0, 10)], [6, 'before']);
  await mount.notifier.invalidateAttr(nodeid);
  assert.equal((await agent.stat('f')).size, 5);
  await mount.notifier.invalidateData(nodeid, 0, 0);
  assert.equal(await agent.pread(keep, 0, 10), 'after');
  await mount.notifier.invalidateAttr(4711);

  const root = handlers.nodes.get(1);
  const entry = root?.entries.get('f');
  assert.ok(root !== undefined && entry !== undefined);
  root.entries.delete('f');
  root.entries.set('g', entry);
  assert.equal((await agent.stat('f')).size, 5, 'the old name is still believed');
  if (!(await mount.notifier.bumpEpoch())) return; // before 7.44 such kernels get no entry timeout
  await assert.rejects(agent.stat('f'), /ENOENT/);
});

test('an invalidation that waits for a page holds up neither the event loop nor other invalidations', {
  skip,
}, async (t) => {
  const handlers = new ParkingHandlers({ attrValidSec: 3600 });
  const mount = await mounted(t, handlers);
  const agent = await agentOn(t, mount);
  const other = await agentOn(t, mount);
  await agent.writeFile('f', 'data');
  await other.writeFile('g', 'other');
  const fd = await agent.open('f', O.RDONLY);
  handlers.parked.add(handlers.nodeidOf('f'));
  const reading = agent.pread(fd, 0, 4);
  await untilParked(mount);
  let done = false;
  const stuck = mount.notifier.invalidateData(handlers.nodeidOf('f'), 0, 0).then(() => {
    done = true;
  });
  await mount.notifier.invalidateData(handlers.nodeidOf('g'), 0, 0);
  assert.equal(await other.readFile('g'), 'other');
  assert.equal(done, false, 'the page is locked by a READ that nobody answered');
  handlers.unpark();
  assert.equal(await reading, 'data');
  await within('the invalidation is done', stuck);
});

test('a forced unmount ends an invalidation that waits', { skip }, async (t) => {
  const handlers = new ParkingHandlers();
  const mount = await mounted(t, handlers);
  const agent = await agentOn(t, mount);
  await agent.writeFile('f', 'data');
  const fd = await agent.open('f', O.RDONLY);
  handlers.parked.add(handlers.nodeidOf('f'));
  const reading = agent.pread(fd, 0, 4);
  await untilParked(mount);
  const stuck = mount.notifier.invalidateData(handlers.nodeidOf('f'), 0, 0);
  await mount.unmount('force');
  await within('the invalidation ends with the mount', stuck);
  await assert.rejects(reading);
});

test('a serving process that ends leaves a mount that can be taken away', { skip }, async (t) => {
  const mountpoint = folder(t);
  const script = join(fileURLToPath(import.meta.url), '..', '..', '..', '..', 'fixtures', 'memory_mount.js');
  const server = new Child('memory mount', process.execPath, [script, mountpoint]);
  afterwards(t, () => server.kill('SIGKILL'));
  await server.line(/mounted/);
  await runOk('sh', ['-c', 'echo x > "$1"/f', 'sh', mountpoint]);
  server.kill('SIGKILL');
  await server.exited;
  assert.notEqual((await run('ls', [mountpoint])).code, 0);
  const again = await failure(startNativeMount(new MemoryHandlers(), { ...DEFAULTS, mountpoint }));
  assert.match(again, /^EBUSY: .* is busy: memory is mounted there; holdfast umount /);
  unmountPath(mountpoint, 'detach');
  assert.equal(isMounted(mountpoint), false);
  assert.throws(() => unmountPath(mountpoint, 'plain'), /EINVAL|is not a mount point/);
});
