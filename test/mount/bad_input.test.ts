/** Mistakes of users and peers: one line that says what is wrong, nothing changed, nobody else disturbed. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, openSync, readFileSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import test from 'node:test';
import type { Transno, Xid } from '../../src/base/ids.js';
import { STRANGER_BODY_BYTES } from '../../src/rpc/link.js';
import { encodeHeader, HEADER_SIZE, type Header, KIND } from '../../src/wire/header.js';
import { run, runOk } from '../fixtures/child.js';
import { type Cluster, prepareCluster, startCluster } from '../fixtures/cluster.js';
import { MIB, makeDevices } from '../fixtures/devices.js';
import { loopsUnder } from '../fixtures/leftovers.js';
import { until, within } from '../fixtures/until.js';

const digest = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');

/** Small devices, so that whole ones can be compared. */
const SMALL = { metaBytes: 64 * MIB, dataBytes: 64 * MIB };

/** The command fails with that status and one line that matches, and the devices stay as they were. */
async function refuses(cluster: Cluster, args: readonly string[], text: RegExp, status = 1): Promise<void> {
  const files = [cluster.devices.meta, cluster.devices.data];
  const before = files.map(digest);
  const done = await cluster.cli(args);
  const lines = done.stderr.split('\n').filter((line) => line !== '');
  const what = `holdfast ${args.join(' ')}: ${done.stderr}`;
  assert.equal(done.code, status, what);
  assert.match(done.stderr, text, what);
  if (status === 1) assert.equal(lines.length, 1, what);
  assert.doesNotMatch(done.stderr, /loop\d/, what);
  await until('the devices are released', () => loopsUnder(cluster.folder).length === 0);
  assert.deepEqual(files.map(digest), before, `${what}: devices unchanged`);
}

test('mkfs refuses what is too small, missing, the same twice, or in use', async (t) => {
  const cluster = prepareCluster(t, SMALL);
  const { meta, data } = cluster.devices;
  const tiny = join(cluster.folder, 'tiny.img');
  writeFileSync(tiny, '');
  truncateSync(tiny, 100_000);
  // In the user's words: nobody knows which loop device the file has.
  await refuses(cluster, ['mkfs', '--meta', tiny, '--data', data], /meta device \S+tiny.img is too small/);
  await refuses(cluster, ['mkfs', '--meta', meta, '--data', tiny], /data device \S+tiny.img is too small/);
  await refuses(cluster, ['mkfs', '--meta', meta, '--data', meta], /same/);
  await refuses(cluster, ['mkfs', '--meta', meta, '--data', join(cluster.folder, 'nothing')], /nothing/);
  await refuses(cluster, ['mkfs', '--meta', meta, '--data', cluster.folder], /director|device/i);
  await refuses(cluster, ['mkfs', '--meta', meta], /--data/, 2);
  await refuses(cluster, ['mkfs', '--meta', meta, '--data', data, '--label', 'two words'], /label/i, 2);
  await refuses(cluster, ['nonsense'], /nonsense/, 2);
});

test('mkfs refuses a device with something on it, says what --force destroys, and then does it', async (t) => {
  const cluster = prepareCluster(t, SMALL);
  await runOk('mkfs.ext4', ['-q', '-F', cluster.devices.meta]);
  await refuses(cluster, ['mkfs', ...cluster.deviceArgs], /ext4.*--force|--force.*ext4/);
  const forced = await cluster.cli(['mkfs', ...cluster.deviceArgs, '--force']);
  assert.equal(forced.code, 0, forced.stderr);
  assert.match(forced.stderr, /ext4/);
  await refuses(cluster, ['mkfs', ...cluster.deviceArgs], /formatted|holdfast/i);
});

test('mkfs and serve refuse devices that are served or mounted, and do not disturb them', async (t) => {
  const cluster = await startCluster(t, SMALL);
  const agent = cluster.agent();
  await agent.writeFile('f', 'x');
  for (const command of [
    ['mkfs', '--force'],
    ['serve', '--listen', '127.0.0.1:0'],
  ]) {
    const done = await cluster.cli([...command, ...cluster.deviceArgs]);
    assert.deepEqual([done.code, done.stderr.split('\n').length], [1, 1], done.stderr);
    assert.match(done.stderr, /in use/);
  }
  await agent.writeFile('g', 'y');
  const other = makeDevices(cluster.folder, 'other-', 64 * MIB, 64 * MIB);
  await runOk('mkfs.ext4', ['-q', '-F', other.meta]);
  const mountpoint = join(cluster.folder, 'ext4');
  mkdirSync(mountpoint);
  await runOk('mount', ['-o', 'loop', other.meta, mountpoint]);
  try {
    const done = await cluster.cli(['mkfs', '--force', '--meta', other.meta, '--data', other.data]);
    assert.equal(done.code, 1, done.stderr);
    assert.match(done.stderr, /mounted|in use/);
  } finally {
    await runOk('umount', [mountpoint]);
  }
  assert.equal(await agent.readFile('g'), 'y');
});

test('serve refuses devices that are not formatted, swapped, or of two targets', async (t) => {
  const cluster = prepareCluster(t, SMALL);
  const { meta, data } = cluster.devices;
  const serve = (metaPath: string, dataPath: string): string[] => [
    'serve',
    '--meta',
    metaPath,
    '--data',
    dataPath,
    '--listen',
    '127.0.0.1:0',
  ];
  await refuses(cluster, serve(meta, data), /not formatted|mkfs/);
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs]);
  const other = makeDevices(cluster.folder, 'other-', 64 * MIB, 64 * MIB);
  await cluster.cliOk(['mkfs', '--meta', other.meta, '--data', other.data]);
  await refuses(cluster, serve(data, meta), /swapped|given as the meta device/);
  await refuses(cluster, serve(meta, other.data), /different|another|target/);
});

test('serve refuses superblocks that are damaged, cut off, or of an unknown format, and says which', async (t) => {
  const cluster = prepareCluster(t, { ...SMALL, damages: true });
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs]);
  const { meta, data } = cluster.devices;
  const serve = ['serve', ...cluster.deviceArgs, '--listen', '127.0.0.1:0'];
  const [metaWas, dataWas] = [readFileSync(meta), readFileSync(data)];
  const damage = async (path: string, offset: number, bytes: Buffer): Promise<void> => {
    const fd = openSync(path, 'r+');
    writeSync(fd, bytes, 0, bytes.length, offset);
    await refuses(cluster, serve, /./);
    writeFileSync(meta, metaWas);
    writeFileSync(data, dataWas);
  };
  await damage(meta, 0, Buffer.alloc(8192, 0xff));
  await damage(meta, 4096, Buffer.alloc(64 * 1024));
  await damage(data, 0, Buffer.alloc(4096));
  await damage(data, 16, Buffer.from([0xff, 0xff, 0xff, 0xff]));
  truncateSync(data, 32 * MIB);
  await refuses(cluster, serve, /./);
});

test('a port in use, an address that is none, and a server that is not there are named', async (t) => {
  const cluster = await startCluster(t, { ...SMALL, mounts: 0 });
  const other = makeDevices(cluster.folder, 'other-', 64 * MIB, 64 * MIB);
  const devices = ['--meta', other.meta, '--data', other.data];
  await cluster.cliOk(['mkfs', ...devices]);
  const taken = await cluster.cli(['serve', ...devices, '--listen', cluster.address]);
  assert.deepEqual([taken.code, /in use/.test(taken.stderr)], [1, true], taken.stderr);
  const bad = await cluster.cli(['serve', ...devices, '--listen', 'what ever']);
  assert.equal(bad.code, 2, bad.stderr);
  for (const command of ['status', 'shutdown']) {
    const gone = await cluster.cli([command, '127.0.0.1:1']);
    assert.deepEqual([gone.code, gone.stderr.split('\n').length], [1, 1], gone.stderr);
  }
});

test('mount names what is wrong with the mount point, and gives up on a silent host after ten seconds', async (t) => {
  const cluster = await startCluster(t, SMALL);
  const file = join(cluster.folder, 'file');
  writeFileSync(file, '');
  const full = join(cluster.folder, 'empty');
  mkdirSync(full);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  for (const [where, text] of [
    [join(cluster.folder, 'missing'), /missing|does not exist|no such/i],
    [file, /not a directory/],
    [mount.dir, /busy|already|mounted/],
  ] as const) {
    const done = await cluster.cli(['mount', cluster.address, where]);
    assert.deepEqual([done.code, done.stderr.split('\n').length], [1, 1], done.stderr);
    assert.match(done.stderr, text);
  }
  const silent = createServer(() => undefined);
  await new Promise<void>((resolve) => {
    silent.listen(0, '127.0.0.1', resolve);
  });
  const { port } = silent.address() as { port: number };
  const began = performance.now();
  const done = await cluster.cli(['mount', '-o', 'tls=off', `127.0.0.1:${port}`, full]);
  silent.close();
  const tookMs = performance.now() - began;
  assert.deepEqual([done.code, done.stderr.split('\n').length], [1, 1], done.stderr);
  assert.ok(tookMs > 8000 && tookMs < 60_000, `${tookMs} ms`);
  const unknown = await cluster.cli(['mount', cluster.address, full, '-o', 'nonsense']);
  assert.deepEqual([unknown.code === 1 || unknown.code === 2, /nonsense/.test(unknown.stderr)], [true, true]);
});

test('mount and the admin commands give up on what listens and is no Holdfast server', async (t) => {
  const cluster = prepareCluster(t);
  const dir = join(cluster.folder, 'empty');
  mkdirSync(dir);
  const listening = async (answer: (socket: Socket) => void): Promise<string> => {
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      answer(socket);
    });
    t.after(() => server.close());
    await new Promise<void>((resolve) => {
      server.listen(0, '127.0.0.1', resolve);
    });
    return `127.0.0.1:${(server.address() as { port: number }).port}`;
  };
  const hosts = [
    await listening(() => undefined),
    // What we said comes back: our own CONNECT as a request, our answer to it as an answer.
    await listening((socket) => socket.pipe(socket)),
    await listening((socket) => socket.write(Buffer.alloc(100_000, 0xa5))),
    await listening((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')),
  ];
  const commands = hosts.flatMap((host) => [
    ['mount', host, dir],
    ['mount', '-o', 'tls=off', host, dir],
    ['status', host],
    ['shutdown', host],
    ['evict', host, 'someone'],
  ]);
  for (const args of commands.filter(([command]) => command !== 'mount')) await givesUp(cluster, args, 5000);
  await Promise.all(
    commands.filter(([command]) => command === 'mount').map((args) => givesUp(cluster, args, 10_000)),
  );
});

/** One line at the end says why; before it mount says what it tries again. */
async function givesUp(cluster: Cluster, args: readonly string[], limitMs: number): Promise<void> {
  const began = performance.now();
  const done = await cluster.cli(args);
  const what = `holdfast ${args.join(' ')}: ${done.stderr}`;
  const lines = done.stderr.trim().split('\n');
  const earlier = lines.slice(0, -1);
  assert.deepEqual([done.code, earlier.every((line) => /tries again for 10 s$/.test(line))], [1, true], what);
  assert.match(lines.at(-1) ?? '', /^holdfast: .*127\.0\.0\.1/, what);
  const tookMs = performance.now() - began;
  assert.ok(tookMs < limitMs + 50_000, `${what} after ${tookMs} ms`);
}

test('a /dev/fuse that is missing or something else is named', async (t) => {
  const cluster = await startCluster(t, { ...SMALL, mounts: 0 });
  const dir = join(cluster.folder, 'empty');
  mkdirSync(dir);
  for (const [prepare, text] of [
    [
      'mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9',
      /modprobe fuse/,
    ],
    ['mount --bind /etc/passwd /dev/fuse', /no character device/],
  ] as const) {
    const command = `${prepare} && exec "$@"`;
    const argv = [process.execPath, cluster.tree.main, 'mount', cluster.address, dir];
    const done = await run('unshare', ['-m', 'sh', '-c', command, 'sh', ...argv], { env: cluster.env });
    assert.deepEqual([done.code, done.stderr.trim().split('\n').length], [1, 1], done.stderr);
    assert.match(done.stderr, text);
  }
});

test('mount.holdfast leaves out what is the business of mount(8), and says what is wrong with the rest', async (t) => {
  const cluster = await startCluster(t, { ...SMALL, mounts: 0 });
  const dir = join(cluster.folder, 'dir');
  mkdirSync(dir);
  const helper = join(dirname(cluster.tree.main), 'mount_holdfast.js');
  const mount = (...args: string[]) => run(process.execPath, [helper, ...args], { env: cluster.env });
  for (const [args, code, text] of [
    [['nowhere:', dir], 32, /"nowhere:" is not HOST:PORT/],
    [[cluster.address, join(dir, 'missing')], 32, /does not exist/],
    [[cluster.address, dir, '-o', 'rw,nonsense'], 32, /nonsense/],
    [[cluster.address, dir, '-f', '-o', 'rw,nonsense'], 32, /nonsense/],
    [[cluster.address], 1, /missing required argument/],
  ] as const) {
    const done = await mount(...args);
    assert.deepEqual([done.code, done.stderr.trim().split('\n').length], [code, 1], done.stderr);
    assert.match(done.stderr, text);
  }
  const done = await mount(
    cluster.address,
    dir,
    '-n',
    '-o',
    'rw,_netdev,noauto,nofail,users,x-systemd.automount',
  );
  assert.equal(done.code, 0, done.stderr);
  await cluster.cliOk(['umount', dir]);
});

/** Opens a connection, writes, and resolves when the server closes it. */
function abuse(cluster: Cluster, bytes: Uint8Array): Promise<void> {
  const { port } = new URL(`tcp://${cluster.address}`);
  return new Promise((resolve) => {
    const socket = createConnection(Number(port), '127.0.0.1', () => socket.write(bytes));
    socket.on('error', () => resolve());
    socket.on('close', () => resolve());
    socket.resume();
  });
}

test('random bytes, absurd lengths, unknown opcodes and old versions cost their sender the connection, nobody else', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  const fd = await agent.open('f', 0o102);
  let seed = 7;
  const random = Buffer.from(
    Array.from({ length: 100_000 }, () => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return seed >>> 24;
    }),
  );
  const frame = (change: Partial<Header>, body = Buffer.alloc(0)): Buffer => {
    const header: Header = {
      version: 1,
      kind: KIND.request,
      opcode: 1,
      flags: 0,
      errno: 0,
      xid: 1 as Xid,
      ackXidOrCommitted: 0,
      transno: 0 as Transno,
      connCount: 1,
      bodyLength: body.length,
      bulkLength: 0,
      ...change,
    };
    return Buffer.concat([encodeHeader(header), body]);
  };
  const cases: Record<string, Buffer> = {
    random,
    'a short header': random.subarray(0, HEADER_SIZE - 1),
    'an absurd body': frame({ bodyLength: 0xffff_fff0 }),
    'an absurd bulk': frame({ bulkLength: 0xffff_fff0 }),
    'an unknown opcode': frame({ opcode: 9999 }),
    'a body of the wrong type': frame({}, Buffer.from([0x93, 1, 2, 3])),
    'a truncated body': frame({ bodyLength: 100 }, Buffer.from([0x81])),
    'an old version': frame({ version: 0 }),
  };
  for (const [name, bytes] of Object.entries(cases)) {
    const closed = abuse(cluster, bytes);
    // What could still become a whole frame may be waited for; it must not hold anybody else up.
    await Promise.race([closed, agent.write(fd, 'x')]);
    await within(`an operation after ${name}`, agent.writeFile('g', name), 5000);
  }
  assert.equal(await agent.readFile('g'), 'an old version');
});

test('a thousand connections that say nothing, and one that stops reading, hold nobody up', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent();
  const { port } = new URL(`tcp://${cluster.address}`);
  const sockets: Socket[] = [];
  const opened = Array.from(
    { length: 1000 },
    () =>
      new Promise<void>((resolve) => {
        const socket = createConnection(Number(port), '127.0.0.1', resolve);
        socket.on('error', () => resolve());
        sockets.push(socket);
      }),
  );
  await within('the connections are made', Promise.all(opened));
  for (let at = 0; at < 20; at++) await within('an operation', agent.writeFile(`f${at}`, 'x'), 5000);
  assert.equal((await cluster.status()).clients.length, 1);
  for (const socket of sockets) socket.destroy();
});

/** Memory of a process, in bytes. */
function residentBytes(pid: number): number {
  const [, kib = ''] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kib) * 1024;
}

test('two thousand peers that have sent all of a CONNECT but its last byte make the server hold less than 64 KiB each', async (t) => {
  const cluster = await startCluster(t, { ...SMALL, mounts: 0 });
  const { pid } = cluster.server.child;
  const { port } = new URL(`tcp://${cluster.address}`);
  const sockets: Socket[] = [];
  t.after(() => {
    for (const socket of sockets) socket.destroy();
  });
  const header: Header = {
    version: 1,
    kind: KIND.request,
    opcode: 1,
    flags: 0,
    errno: 0,
    xid: 1 as Xid,
    ackXidOrCommitted: 0,
    transno: 0 as Transno,
    connCount: 1,
    bodyLength: STRANGER_BODY_BYTES,
    bulkLength: 0,
  };
  const most = Buffer.concat([encodeHeader(header), Buffer.alloc(STRANGER_BODY_BYTES - 1, 0x90)]);
  /** @returns how many are open when each has sent all of it. */
  const open = async (count: number): Promise<void> => {
    const opened = Array.from(
      { length: count },
      () =>
        new Promise<void>((resolve) => {
          const socket = createConnection(Number(port), '127.0.0.1', () =>
            socket.write(most, () => resolve()),
          );
          socket.on('error', () => resolve());
          sockets.push(socket);
        }),
    );
    await within('the connections are made', Promise.all(opened));
  };
  // Code and tables that the first ones need are not theirs.
  await open(100);
  await cluster.status();
  const before = residentBytes(pid);
  await open(2000);
  await cluster.status();
  const bytes = (residentBytes(pid) - before) / 2000;
  assert.ok(bytes < 64 << 10, `${Math.round(bytes)} bytes for each`);
  t.diagnostic(`${Math.round(bytes)} bytes for each`);
  assert.equal((await cluster.status()).clients.length, 0);
});
