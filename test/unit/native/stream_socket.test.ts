/** The addon's stream socket when it is used in ways that make no sense: errors, never a crash. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { nativeBinding, packageRoot, type StreamSocket } from '../../../native/binding.js';
import { until } from '../../fixtures/until.js';

const { StreamSocket: Socket, socketPair } = nativeBinding();

interface Made {
  readonly socket: StreamSocket;
  readonly memory: [Uint8Array];
  readonly log: string[];
}

function make(fd: number): Made {
  const memory: [Uint8Array] = [Buffer.alloc(1000)];
  const log: string[] = [];
  const socket = new Socket(
    fd,
    memory,
    (bytes) => log.push(Buffer.from(memory[0].subarray(0, bytes)).toString()),
    (bytes) => log.push(`sent ${bytes}`),
    (error) => log.push(`ended ${(error as NodeJS.ErrnoException | undefined)?.code}`),
  );
  return { socket, memory, log };
}

/** Two connected ones. */
function pair(t: TestContext): [Made, Made] {
  const descriptors = socketPair();
  const made = descriptors.map(make);
  descriptors.forEach(closeSync);
  t.after(() => {
    for (const { socket } of made) socket.close();
  });
  return made as [Made, Made];
}

/** Takes a buffer's memory away, as a transfer to a worker does. */
function detach(bytes: Uint8Array): void {
  structuredClone(bytes.buffer, { transfer: [bytes.buffer as ArrayBuffer] });
}

/** Writes until much waits. @returns what waits. */
function fill({ socket }: Made): number {
  for (;;) {
    const waiting = socket.write([Buffer.alloc(1 << 20)]);
    if (waiting > 0) return waiting;
  }
}

const NOT_BYTES: readonly unknown[] = [
  undefined,
  null,
  0,
  'text',
  {},
  [],
  new ArrayBuffer(8),
  Symbol('chunk'),
  () => undefined,
];

test('the loop that stays awake for the next message runs everything else meanwhile, and sleeps in the end', async (t) => {
  const [a, b] = pair(t);
  b.socket.resume();
  let ran = 0;
  // One behind the other, as answers and requests come: the loop stays awake from one to the next.
  for (let at = 0; at < 300; at += 1) {
    a.socket.write([Buffer.from('m')]);
    await until(`message ${at}`, () => b.log.length > at);
    const runs = (): void => {
      ran += 1;
    };
    setTimeout(runs, 0);
    setImmediate(runs);
  }
  await until('timers and immediates have run', () => ran === 600);
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const { user, system } = process.cpuUsage(before);
  assert.ok(user + system < 500_000, `${user + system} us of a second in which nothing came`);
});

test('bytes go through, and the end', async (t) => {
  const [a, b] = pair(t);
  b.socket.resume();
  assert.equal(a.socket.write([Buffer.from('hello '), new Uint8Array(0), Buffer.from('there')]), 0);
  assert.equal(a.socket.end(), 0);
  await until('the end', () => b.log.length === 2);
  assert.deepEqual(b.log, ['hello there', 'ended undefined']);
});

test('a constructor that gets anything else than it needs throws, and keeps no descriptor', () => {
  const memory = [Buffer.alloc(10)];
  const call = (): void => undefined;
  const device = openSync('/dev/null', 'r');
  const [socket, other] = socketPair();
  const make = Socket as unknown as new (...args: unknown[]) => StreamSocket;
  const wrong: readonly (readonly unknown[])[] = [
    [],
    ['1', memory, call, call, call],
    [socket],
    [socket, Buffer.alloc(10), call, call, call],
    [socket, memory, call, call],
    [socket, memory, call, call, {}],
  ];
  for (const args of wrong) assert.throws(() => new make(...args), TypeError);
  assert.throws(
    () => (Socket as unknown as (...args: unknown[]) => void)(socket, memory, call, call, call),
    TypeError,
  );
  assert.throws(() => new make(-1, memory, call, call, call), { code: 'EBADF' });
  assert.throws(() => new make(device, memory, call, call, call), { code: 'ENOTSOCK' });
  for (const fd of [device, socket, other]) {
    fstatSync(fd);
    closeSync(fd);
  }
});

test('methods on another object throw', (t) => {
  const [{ socket }] = pair(t);
  const { prototype } = Socket as unknown as { prototype: Record<string, (...args: unknown[]) => unknown> };
  for (const name of ['resume', 'pause', 'write', 'end', 'takenBytes', 'close']) {
    const method = prototype[name] as (...args: unknown[]) => unknown;
    for (const self of [{}, undefined, 1, Object.create(socket)]) {
      assert.throws(() => method.call(self, []), TypeError, `${name} of ${typeof self}`);
    }
  }
});

test('write takes nothing but an array of bytes, and sends nothing of a wrong one', async (t) => {
  const [a, b] = pair(t);
  b.socket.resume();
  const write = a.socket.write.bind(a.socket) as (chunks: unknown) => number;
  for (const chunks of [undefined, null, 'text', Buffer.from('x'), { length: 1 }, new Array(4_000_000_000)]) {
    assert.throws(() => write(chunks), TypeError);
  }
  for (const chunk of NOT_BYTES) assert.throws(() => write([Buffer.from('x'), chunk]), TypeError);
  const gone = Buffer.from(new ArrayBuffer(10));
  detach(gone);
  assert.throws(() => write([Buffer.from('x'), gone]), TypeError);
  const thrown = new Error('from a getter');
  const throwing = Object.defineProperty([Buffer.from('x')], 1, {
    get: () => {
      throw thrown;
    },
  });
  assert.throws(() => write(throwing), thrown);
  assert.equal(write([]), 0);
  assert.equal(write([Buffer.from('right')]), 0);
  await until('what is right arrives', () => b.log.length > 0);
  assert.deepEqual(b.log, ['right']);
});

test('a getter among the chunks may detach the others, or close the socket', (t) => {
  const [a, b] = pair(t);
  const first = Buffer.from(new ArrayBuffer(1 << 16));
  const detaching = Object.defineProperty([first, undefined], 1, {
    get: () => {
      detach(first);
      return Buffer.from('x');
    },
  });
  assert.ok(a.socket.write(detaching as unknown as Buffer[]) >= 0);
  const closing = Object.defineProperty([Buffer.from('x'), undefined], 1, {
    get: () => {
      b.socket.close();
      return Buffer.from('x');
    },
  });
  assert.ok(b.socket.write(closing as unknown as Buffer[]) < 0);
});

test('memory that is taken away while it waits ends the connection', async (t) => {
  const [a, b] = pair(t);
  fill(a);
  const waiting = Buffer.from(new ArrayBuffer(1 << 16));
  a.socket.write([waiting]);
  detach(waiting);
  b.socket.resume();
  await until('the end', () => a.log.some((line) => line.startsWith('ended')));
  assert.equal(a.log.at(-1), 'ended EFAULT');
  assert.ok(a.socket.write([Buffer.from('x')]) < 0);
});

test('memory to receive into that is none ends the connection', async (t) => {
  const gone = Buffer.from(new ArrayBuffer(10));
  detach(gone);
  const throwing = {
    get 0(): Uint8Array {
      throw new Error('from a getter');
    },
  };
  for (const wrong of [...NOT_BYTES, Buffer.alloc(0), gone, throwing]) {
    const [a, b] = pair(t);
    if (wrong === throwing)
      Object.defineProperty(b.memory, 0, Object.getOwnPropertyDescriptor(throwing, 0) ?? {});
    else b.memory[0] = wrong as Uint8Array;
    b.socket.resume();
    a.socket.write([Buffer.from('x')]);
    await until('the end', () => b.log.length > 0);
    assert.deepEqual(b.log, ['ended EFAULT']);
  }
});

test('after close nothing is called and nothing works', async (t) => {
  const [a, b] = pair(t);
  fill(a);
  a.socket.resume();
  b.socket.write([Buffer.from('x')]);
  a.socket.close();
  a.socket.close();
  a.socket.resume();
  a.socket.pause();
  assert.ok(a.socket.write([Buffer.from('x')]) < 0);
  assert.deepEqual([a.socket.end(), a.socket.takenBytes()], [0, 0]);
  b.socket.resume();
  await until('the other end hears of it', () => b.log.some((line) => line.startsWith('ended')));
  assert.deepEqual(a.log, []);
});

test('a callback may close its socket, and an exception of one is uncaught', async (t) => {
  const descriptors = socketPair();
  const other = make(descriptors[1]);
  const failure = new Error('from a callback');
  const closing: StreamSocket = new Socket(
    descriptors[0],
    [Buffer.alloc(4)],
    () => {
      closing.close();
      throw failure;
    },
    () => undefined,
    () => undefined,
  );
  descriptors.forEach(closeSync);
  t.after(() => other.socket.close());
  const uncaught = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  t.after(() => {
    for (const listener of uncaught) process.on('uncaughtException', listener);
  });
  const thrown = once(process, 'uncaughtException');
  closing.resume();
  other.socket.write([Buffer.alloc(100)]);
  assert.equal((await thrown)[0], failure);
});

test('a thread may end with open sockets that have much to send and to receive', async () => {
  const code = `
    const { workerData, parentPort } = require('node:worker_threads');
    const { StreamSocket, socketPair } = require(workerData);
    const memory = [Buffer.alloc(1 << 16)];
    const none = () => undefined;
    const [one, two] = socketPair().map((fd) => new StreamSocket(fd, memory, none, none, none));
    for (let waiting = 0; waiting === 0; ) waiting = one.write([Buffer.alloc(1 << 20)]);
    two.resume();
    two.write([Buffer.from('x')]);
    parentPort.on('message', none);
    parentPort.postMessage('ready');`;
  const addon = `${packageRoot()}/native/build/Release/holdfast_native.node`;
  for (const end of ['terminate', 'exit']) {
    const worker = new Worker(end === 'exit' ? `${code}; process.exit(0);` : code, {
      eval: true,
      workerData: addon,
    });
    const exited = once(worker, 'exit');
    if (end === 'terminate') {
      await once(worker, 'message');
      await worker.terminate();
    }
    await exited;
  }
});
