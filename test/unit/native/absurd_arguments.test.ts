/**
 * Every function of the addon with arguments that make no sense: wrong types, numbers beyond all bounds, memory that is gone,
 * objects of others. It throws, and the process lives. `npm run sanitize` runs this file under AddressSanitizer too.
 */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { closeSync, fstatSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type FuseChannel, type NativeBinding, nativeBinding } from '../../../native/binding.js';
import { until } from '../../fixtures/until.js';

const native = nativeBinding();

type Kind =
  | 'int32'
  | 'uint32'
  | 'uint53'
  | 'text'
  | 'path'
  | 'bytes'
  | 'boolean'
  | 'function'
  | 'array'
  | 'handle';
type Argument = readonly [kind: Kind, value: unknown];

const WRONG: readonly unknown[] = [
  undefined,
  null,
  {},
  [],
  Symbol('wrong'),
  1n,
  new ArrayBuffer(8),
  new Proxy({}, {}),
];
const NUMBERS: readonly unknown[] = [
  '1',
  true,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  -1e300,
  1.5,
  2 ** 53,
  2 ** 64,
];

function absurd(kind: Kind): readonly unknown[] {
  const call = (): void => undefined;
  switch (kind) {
    case 'int32':
      return [...WRONG, ...NUMBERS, call, 2 ** 31, -(2 ** 31) - 1];
    case 'uint32':
      return [...WRONG, ...NUMBERS, call, -1, 2 ** 32];
    case 'uint53':
      return [...WRONG, ...NUMBERS, call, -1];
    case 'text':
      return [...WRONG, 0, true, Buffer.from('text'), call];
    case 'path':
      return [...WRONG, 0, true, Buffer.from('text'), call, '/a\0b'];
    case 'bytes':
      return [...WRONG, 0, 'text', true, call];
    case 'boolean':
      return [...WRONG, 0, 'true', call];
    case 'function':
      return [...WRONG, 0, 'call'];
    case 'array':
      return [...WRONG.filter((value) => !Array.isArray(value)), 0, 'array', call];
    case 'handle':
      return [...WRONG, 0, 'handle', call];
  }
}

const BYTES = Buffer.alloc(4096);
const NOWHERE = '/nonexistent/of-a-test';
const call = (): void => undefined;
const fd: Argument = ['int32', -1];
const number = (kind: Kind, value = 0): Argument => [kind, value];
const bytes: Argument = ['bytes', BYTES];
const nowhere: Argument = ['path', NOWHERE];

/** Of each function arguments of the right types, with which it does no harm. */
const FUNCTIONS: {
  readonly [Name in Exclude<
    keyof NativeBinding,
    'FuseChannel' | 'StreamSocket' | 'TlsContext'
  >]: readonly Argument[];
} = {
  mount: [nowhere, nowhere, ['path', 'none'], number('uint32'), ['path', '']],
  umount: [nowhere, number('int32')],
  umountHere: [nowhere, number('int32')],
  socketPair: [],
  receiveFd: [fd],
  cloneFuse: [fd],
  blockGeometry: [fd],
  blockDiscard: [fd, number('uint53'), number('uint53')],
  reserveFile: [fd, number('uint53', 4096)],
  blockDropCache: [fd],
  blockReadDirect: [fd, number('uint53'), number('uint32', 4096)],
  blockWriteDirect: [fd, number('uint53'), bytes],
  blockReadOnce: [fd, fd, bytes, number('uint53')],
  isAligned: [bytes, number('uint32', 8)],
  alignedBuffer: [number('uint32', 4096), number('uint32', 4096)],
  lockFile: [fd],
  loopGetFree: [fd],
  loopAttach: [fd, fd, ['path', 'name'], ['boolean', false]],
  loopBacking: [fd],
  loopDetach: [fd],
  makeBlockNode: [nowhere, number('uint32'), number('uint32')],
  metaPagesOpen: [nowhere, number('uint53', 8192), number('uint32')],
  metaPagesClose: [['handle', undefined]],
  metaPagesGet: [['handle', undefined], bytes, bytes],
  metaPagesLeaf: [['handle', undefined], bytes, bytes, number('uint32')],
  metaPagesCheck: [['handle', undefined], bytes],
  metaPagesPrefetch: [['handle', undefined], bytes],
  socketTakenBytes: [fd],
  unixListen: [['text', `holdfast-absurd-${process.pid}`], number('int32')],
  unixConnect: [['text', `holdfast-nobody-${process.pid}`]],
  unixPeer: [fd],
  crc32cBlocks: [bytes, number('uint32', 512)],
  crc32cBlocksPortable: [bytes, number('uint32', 512)],
  flock: [fd, ['text', 'shared'], ['boolean', false]],
  lockRange: [fd, ['text', 'shared'], number('uint53'), number('uint53'), ['boolean', false]],
  map: [fd, number('uint53', 4096)],
  setDumpable: [['boolean', true]],
  closeOnExec: [fd],
  limitCertificates: [number('uint32', 102_400)],
  tellManager: [nowhere, ['text', 'READY=1'], number('int32', -1), number('int32', -1)],
  memoryFile: [['path', 'name']],
  fuseHasEnded: [fd],
};

const functions = native as unknown as Readonly<Record<string, (...args: readonly unknown[]) => unknown>>;

function isRefusal(error: unknown): boolean {
  return error instanceof TypeError || error instanceof RangeError;
}

/** What a call with arguments of the right types comes to: anything but a refusal of one of them. */
async function settle(name: string, args: readonly unknown[]): Promise<void> {
  try {
    const made = await functions[name]?.(...args);
    const descriptors =
      name === 'unixListen' || name === 'memoryFile'
        ? [made as number]
        : name === 'socketPair'
          ? (made as number[])
          : [];
    descriptors.forEach(closeSync);
  } catch (error) {
    assert.equal(typeof (error as NodeJS.ErrnoException).code, 'string', `${name}: ${error}`);
  }
}

test('each function refuses what is of the wrong type, no integer, or beyond its range', async () => {
  const classes = ['FuseChannel', 'StreamSocket', 'TlsContext'];
  assert.deepEqual(
    Object.keys(FUNCTIONS).sort(),
    Object.keys(native)
      .filter((name) => !classes.includes(name))
      .sort(),
  );
  for (const [name, args] of Object.entries(FUNCTIONS)) {
    const right = args.map(([, value]) => value);
    await settle(name, right);
    for (const [at, [kind]] of args.entries()) {
      for (const value of absurd(kind)) {
        const wrong = right.with(at, value);
        assert.throws(
          () => functions[name]?.(...wrong),
          isRefusal,
          `${name}, argument ${at}: ${String(typeof value)}`,
        );
      }
    }
    if (args.length > 0) assert.throws(() => functions[name]?.(), isRefusal, name);
  }
});

test('memory that is gone counts as none', async () => {
  const gone = (): Uint8Array => {
    const view = new Uint8Array(4096);
    structuredClone(view.buffer, { transfer: [view.buffer] });
    return view;
  };
  for (const [name, args] of Object.entries(FUNCTIONS)) {
    if (!args.some(([kind]) => kind === 'bytes') || args[0]?.[0] === 'handle') continue;
    await settle(
      name,
      args.map(([kind, value]) => (kind === 'bytes' ? gone() : value)),
    );
  }
});

test('numbers at the edges of their range are errors of the system, or of the range', async () => {
  const edges: Partial<Record<Kind, readonly number[]>> = {
    int32: [-(2 ** 31), 2 ** 31 - 1],
    uint32: [2 ** 32 - 1, 0],
    uint53: [Number.MAX_SAFE_INTEGER, 0],
  };
  for (const [name, args] of Object.entries(FUNCTIONS)) {
    if (args[0]?.[0] === 'handle') continue;
    for (const [at, [kind]] of args.entries()) {
      for (const value of edges[kind] ?? []) await settle(name, args.map((arg) => arg[1]).with(at, value));
    }
  }
  assert.throws(() => native.isAligned(BYTES, 0), RangeError);
  assert.throws(() => native.alignedBuffer(2 ** 31, 4096), RangeError);
  for (const alignment of [0, 3, 4, 2 ** 32 - 1]) {
    assert.throws(() => native.alignedBuffer(4096, alignment), RangeError);
  }
  assert.throws(() => native.blockReadDirect(-1, 0, 2 ** 31), RangeError);
});

interface Files {
  readonly folder: string;
  /** A file of this size. */
  make(name: string, sizeBytes: number): { readonly path: string; readonly fd: number };
}

function files(t: TestContext): Files {
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-absurd-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return {
    folder,
    make: (name, sizeBytes) => {
      const path = join(folder, name);
      const opened = openSync(path, 'w+');
      t.after(() => closeSync(opened));
      ftruncateSync(opened, sizeBytes);
      return { path, fd: opened };
    },
  };
}

test('a mapping ends where it ends, and its methods are for mappings only', (t) => {
  const { make } = files(t);
  const { fd: file } = make('mapped', 4096);
  writeSync(file, 'content');
  for (const length of [4097, Number.MAX_SAFE_INTEGER])
    assert.throws(() => native.map(file, length), RangeError);
  const mapping = native.map(file, 4096);
  for (const [offset, length] of [
    [0, 4097],
    [4097, 0],
    [4096, 1],
    [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
  ] as const) {
    assert.throws(() => mapping.read(offset, length), RangeError);
  }
  assert.throws(() => mapping.write(4090, Buffer.alloc(7)), RangeError);
  assert.throws(() => mapping.read(-1, 1), RangeError);
  const [one, other] = native.socketPair();
  const socket = new native.StreamSocket(one, [Buffer.alloc(10)], call, call, call);
  t.after(() => {
    socket.close();
    for (const each of [one, other]) closeSync(each);
  });
  for (const self of [socket, {}, undefined, null, 1, native, new Proxy(mapping, {})]) {
    assert.throws(() => mapping.read.call(self, 0, 1), TypeError);
    assert.throws(() => mapping.unmap.call(self), TypeError);
  }
  assert.equal(mapping.read(0, 7).toString(), 'content');
  mapping.unmap();
  assert.throws(() => mapping.read(0, 1), TypeError);
  assert.throws(() => mapping.unmap(), TypeError);
});

test('a handle of database pages is one of ours, open, and of a device that is as long as it says', async (t) => {
  const { make, folder } = files(t);
  const { path } = make('database', 16_384);
  for (const size of [0, 4096, 8191, 16_385, Number.MAX_SAFE_INTEGER]) {
    assert.throws(() => native.metaPagesOpen(path, size, 0), RangeError, `${size}`);
  }
  assert.throws(
    () => native.metaPagesOpen(folder, 16_384, 0),
    (error) => error instanceof Error,
  );
  const server: Server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  // Node has values of the same kind for purposes of its own.
  const foreign = (server as unknown as { _handle: { _externalStream?: unknown } })._handle._externalStream;
  const handle = native.metaPagesOpen(path, 16_384, 1);
  const key = Buffer.from('key');
  // It has no database.
  assert.match(String(native.metaPagesGet(handle, key, Buffer.alloc(0))), /no longer the start/);
  for (const keys of [Buffer.alloc(0), Buffer.alloc(1), Buffer.from([255, 255, 0])])
    await native.metaPagesPrefetch(handle, keys);
  assert.throws(() => native.metaPagesCheck(handle, Buffer.from([255, 127, 0])), TypeError);
  native.metaPagesClose(handle);
  for (const wrong of [handle, foreign]) {
    const bad = wrong as typeof handle;
    assert.throws(() => native.metaPagesGet(bad, key, key), TypeError);
    assert.throws(() => native.metaPagesLeaf(bad, key, key, 1), TypeError);
    assert.throws(() => native.metaPagesCheck(bad, key), TypeError);
    assert.throws(() => native.metaPagesPrefetch(bad, key), TypeError);
    assert.throws(() => native.metaPagesClose(bad), TypeError);
  }
});

interface Channel {
  readonly channel: FuseChannel;
  readonly slabs: readonly [Buffer, Buffer];
  readonly closed: number[];
  readonly batches: number[];
  /** The other end of what the channel takes for /dev/fuse. */
  readonly peer: number;
}

function channelOf(t: TestContext): Channel {
  const [mine, peer] = native.socketPair();
  // Memory of their own, which can be taken away.
  const slabs = [Buffer.from(new ArrayBuffer(8192)), Buffer.from(new ArrayBuffer(8192))] as const;
  const closed: number[] = [];
  const batches: number[] = [];
  const channel = new native.FuseChannel(
    mine,
    ...slabs,
    4096,
    (size) => {
      batches.push(size);
      return 0;
    },
    call,
    call,
    (errno) => closed.push(errno),
  );
  t.after(() => {
    channel.close();
    closeSync(peer);
  });
  return { channel, slabs, closed, batches, peer };
}

test('a channel takes what it needs only, and a descriptor that it refuses stays with its caller', (t) => {
  const make = native.FuseChannel as unknown as new (...args: readonly unknown[]) => FuseChannel;
  const { make: file } = files(t);
  const kinds: readonly Kind[] = [
    'int32',
    'bytes',
    'bytes',
    'uint32',
    'function',
    'function',
    'function',
    'function',
  ];
  const regular = file('regular', 0).fd;
  const right: readonly unknown[] = [
    regular,
    Buffer.alloc(8192),
    Buffer.alloc(8192),
    4096,
    call,
    call,
    call,
    call,
  ];
  for (const [at, kind] of kinds.entries()) {
    for (const value of absurd(kind))
      assert.throws(() => new make(...right.with(at, value)), isRefusal, `argument ${at}`);
  }
  assert.throws(() => new make(...right.with(3, 0)), TypeError);
  assert.throws(() => new make(...right.with(3, 8193)), TypeError);
  assert.throws(() => new make(...right.with(1, Buffer.alloc(8200).subarray(1))), TypeError);
  assert.throws(() => (make as unknown as (...args: readonly unknown[]) => void)(...right), TypeError);
  // A file cannot be waited for.
  assert.throws(() => new make(...right), { code: 'EPERM' });
  fstatSync(regular);
});

test('replies of a channel are bytes, however their list looks', (t) => {
  const { channel, slabs } = channelOf(t);
  const send = channel.send.bind(channel) as (chunks: unknown) => number;
  for (const value of absurd('array')) assert.throws(() => send(value), isRefusal);
  for (const value of absurd('bytes')) assert.throws(() => send([value]), isRefusal);
  // 64 GiB, if the length were believed.
  assert.throws(() => send(new Array(2 ** 32 - 1)), TypeError);
  const victim = new Uint8Array(4096);
  const chunks = [victim, Buffer.from('x')];
  Object.defineProperty(chunks, 1, {
    get: () => {
      structuredClone(victim.buffer, { transfer: [victim.buffer] });
      return Buffer.from('x');
    },
  });
  assert.equal(send(chunks), 0);
  for (const value of absurd('uint32')) assert.throws(() => channel.flush(value as number), isRefusal);
  channel.flush(2 ** 32 - 1);
  for (const value of absurd('bytes')) assert.throws(() => channel.notify(1, value as Uint8Array), isRefusal);
  for (const value of absurd('uint32'))
    assert.throws(() => channel.notify(value as number, Buffer.alloc(1)), isRefusal);
  for (const self of [{}, undefined, slabs[0], native])
    assert.throws(() => channel.flush.call(self as FuseChannel, 0), TypeError);
});

for (const which of [0, 1] as const) {
  test(`a channel whose ${which === 0 ? 'request' : 'reply'} slab is taken away closes, and touches it no more`, async (t) => {
    const { channel, slabs, closed, batches, peer } = channelOf(t);
    writeSync(peer, Buffer.alloc(64));
    await until('a batch', () => batches.length === 1);
    const { buffer } = slabs[which];
    structuredClone(buffer, { transfer: [buffer as ArrayBuffer] });
    channel.flush(64);
    writeSync(peer, Buffer.alloc(64));
    await until('it is closed', () => closed.length === 1);
    assert.equal(batches.length, 1);
  });
}
