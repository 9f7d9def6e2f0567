/**
 * A process with raw connections to a server: one that floods it, or one that asks for one thing after the other. flood.ts starts
 * it and asks it how much it has done. It ends when its channel does.
 *
 * A flooding client has a fixed number of requests under way, and spends as little as possible on each: it encodes a request once,
 * and does not decode answers.
 */

import type { Fid, Name, Xid } from '../../src/base/ids.js';
import { ROOT_FID } from '../../src/base/ids.js';
import { FrameLink } from '../../src/rpc/link.js';
import { Requester } from '../../src/rpc/requester.js';
import { nodeRuntime } from '../../src/runtime/node_runtime.js';
import { Batch, operationCost } from '../../src/wire/batch.js';
import { Read, Write } from '../../src/wire/data.js';
import { KIND } from '../../src/wire/header.js';
import { Bast, Cancel, Cast, Enqueue } from '../../src/wire/lock.js';
import { Create, Getattr, Readdir, Unlink, WANT_ATTR, WANT_OWN } from '../../src/wire/meta.js';
import type { Operation } from '../../src/wire/operation.js';
import { decode, encode } from '../../src/wire/schema.js';
import { Connect, FEATURE, GetFids } from '../../src/wire/session.js';
import type { Done, Flood, FloodTask, Victim } from './flood_tasks.js';

const MIB = 1 << 20;
const DIRECTORY = 0o040755;
const FILE = 0o100644;
const SMALL_READ = 4096;
const DIRECTORY_ENTRIES = 10_000;
const CONNECTIONS = 200;
const TIME = { sec: 1, nsec: 0 };

let requests = 0;
let failed = 0;

class RawConnection {
  readonly requester = new Requester();
  #link: FrameLink | undefined;
  #nextFid = 0;
  #fidsEnd = 0;
  /** Of a flood: called with each answer. */
  onAnswer: ((xid: Xid) => void) | undefined;
  grantBytes = 0;

  get link(): FrameLink {
    if (this.#link === undefined) throw new Error('not connected');
    return this.#link;
  }

  static async to({ address, access, name }: FloodTask): Promise<RawConnection> {
    const raw = new RawConnection();
    await nodeRuntime().transport.connect(
      address,
      (connection) => {
        raw.#link = new FrameLink(connection, { connCount: 1 }, (link) => ({
          frame: (frame) => {
            const { kind, opcode, xid, errno } = frame.header;
            if (kind === KIND.reply) {
              if (raw.onAnswer === undefined) raw.requester.reply(frame);
              else raw.onAnswer(xid);
              requests += 1;
              if (errno !== 0) failed += 1;
            } else if (opcode === Bast.opcode) {
              const { handle } = decode(Bast.request, frame.body);
              raw.requester.call(Cancel, { handles: [handle] }).catch(() => undefined);
            } else if (opcode !== Cast.opcode) {
              throw new Error(`opcode ${opcode} of the server`);
            }
          },
          closed: (error) => {
            process.stderr.write(`connection of ${link.peer} lost: ${error?.message}\n`);
            process.exit(1);
          },
        }));
        return raw.#link;
      },
      { timeoutMs: 10_000, credentials: { kind: 'plain' } },
    );
    raw.requester.attach(raw.link, { resend: false });
    const { reply } = await raw.requester.call(Connect, {
      uuid: nodeRuntime().rng.uuid() as never,
      name,
      protocolMin: 1,
      protocolMax: 1,
      features: FEATURE.readdirPlus | FEATURE.grants | FEATURE.batch,
      softwareVersion: '0.0.0',
      connCount: 1,
      role: 'client',
      access: { name: access },
    });
    if (reply.outcome !== 'new') throw new Error(`${name}: ${reply.outcome}: ${reply.reason}`);
    raw.grantBytes = reply.metaGrantBytes ?? 0;
    await raw.requester.call(Enqueue, { type: 'active', mode: 'PR' });
    return raw;
  }

  async fid(): Promise<Fid> {
    if (this.#nextFid === this.#fidsEnd) {
      const { reply } = await this.requester.call(GetFids, {});
      [this.#nextFid, this.#fidsEnd] = [reply.start, reply.end];
    }
    return this.#nextFid++ as Fid;
  }

  async call<Q, R>(operation: Operation<Q, R>, request: Q, bulk?: readonly Uint8Array[]): Promise<R> {
    return (await this.requester.call(operation, request, { bulk })).reply;
  }

  async make(parent: Fid, name: string, mode: number, want = 0): Promise<Fid> {
    const fid = await this.fid();
    const owner = { mode, umask: 0, uid: 0, gid: 0, want };
    await this.call(Create, { parent, name: name as Name, fid, exclusive: true, ...owner });
    return fid;
  }

  /** A file of one MiB, with the lock on its content. */
  async content(parent: Fid, mode: 'PR' | 'PW'): Promise<Fid> {
    const fid = await this.make(parent, 'content', FILE);
    const { handle } = await this.call(Enqueue, { type: 'data', fid, mode: 'PW' });
    const write = { fid, offset: 0, mtime: TIME, grantUsed: 0 };
    await this.call(Write, write, [Buffer.alloc(MIB, 'x')]);
    if (mode === 'PW') return fid;
    await this.call(Cancel, { handles: [handle] });
    await this.call(Enqueue, { type: 'data', fid, mode });
    return fid;
  }

  /** From now on so many of these requests are under way. They have their answers in whatever order. */
  flood(
    depth: number,
    next: (xid: Xid) => { opcode: number; body: Uint8Array; bulk?: readonly Uint8Array[] },
  ): void {
    // Above those of the requester.
    let xid = 1_000_000;
    const open = new Set<number>();
    let oldest = xid;
    const send = (): void => {
      const id = xid++ as Xid;
      open.add(id);
      const { opcode, body, bulk } = next(id);
      this.link.send({ kind: KIND.request, opcode, xid: id, ackXidOrCommitted: oldest }, body, bulk);
    };
    this.onAnswer = (id) => {
      if (!open.delete(id)) return;
      while (oldest < xid && !open.has(oldest)) oldest += 1;
      send();
    };
    for (let at = 0; at < depth; at += 1) send();
  }

  floodWith<Q>(
    { opcode, request }: Operation<Q, unknown>,
    depth: number,
    message: Q,
    bulk?: readonly Uint8Array[],
  ): void {
    const frame = { opcode, body: encode(request, message), ...(bulk === undefined ? {} : { bulk }) };
    this.flood(depth, () => frame);
  }
}

async function flood(task: FloodTask & { readonly flood: Flood }): Promise<void> {
  const raw = await RawConnection.to(task);
  const home = await raw.make(
    ROOT_FID,
    `${task.name}-${process.pid}`,
    DIRECTORY,
    task.flood === 'batch' ? WANT_ATTR | WANT_OWN : 0,
  );
  switch (task.flood) {
    case 'stat':
      raw.floodWith(Getattr, 1000, { fid: home, want: 0 });
      return;
    case 'connections':
      // The first one floods too: the server closes a connection that is silent.
      for (let at = 0; at < CONNECTIONS; at += 1) {
        const one = at === 0 ? raw : await RawConnection.to(task);
        one.floodWith(Getattr, 16, { fid: home, want: 0 });
      }
      return;
    case 'readdir': {
      for (let at = 0; at < DIRECTORY_ENTRIES; at += 1) await raw.make(home, `entry-${at}`, FILE);
      raw.floodWith(Readdir, 64, { fid: home, cookie: 0, limit: DIRECTORY_ENTRIES, plus: true, want: 0 });
      return;
    }
    case 'read':
      raw.floodWith(Read, 256, { fid: await raw.content(home, 'PR'), offset: 0, length: MIB });
      return;
    case 'write': {
      const write = { fid: await raw.content(home, 'PW'), offset: 0, mtime: TIME, grantUsed: 0 };
      raw.floodWith(Write, 64, write, [Buffer.alloc(MIB, 'y')]);
      return;
    }
    case 'create': {
      const owner = { mode: FILE, umask: 0, uid: 0, gid: 0, want: 0 };
      const fids: Fid[] = [];
      for (let at = 0; at < 1000; at += 1) fids.push(await raw.fid());
      let turn = 0;
      // Each name is made and removed again by the request behind it, so the device does not fill. An inode that is gone leaves its FID.
      const one = fids.map((fid, at) => ({ fid, name: `file-${at}` as Name }));
      raw.flood(500, () => {
        const { fid, name } = one[Math.floor(turn / 2) % one.length] ?? { fid: ROOT_FID, name: '' as Name };
        const removes = turn++ % 2 === 1;
        if (removes) {
          const unlink = { parent: home, name, directory: false };
          return { opcode: Unlink.opcode, body: encode(Unlink.request, unlink) };
        }
        const create = { parent: home, name, fid, exclusive: true, ...owner };
        return { opcode: Create.opcode, body: encode(Create.request, create) };
      });
      return;
    }
    case 'batch': {
      const fids: Fid[] = [];
      for (let at = 0; at < 128; at += 1) fids.push(await raw.make(home, `file-${at}`, FILE));
      let mode = 0;
      raw.flood(64, () => {
        mode = (mode + 1) % 0o777;
        const operations = fids.map((fid) => ({ setattr: { fid, mode, time: TIME } }));
        const grantUsed = operations.length * operationCost(0, 0);
        return { opcode: Batch.opcode, body: encode(Batch.request, { operations, grantUsed }) };
      });
      return;
    }
    case 'locks': {
      const fid = await raw.make(home, 'locked', FILE);
      const enqueue = encode(Enqueue.request, { type: 'inode', fid, mode: 'PR', bits: 2 });
      const cancel = encode(Cancel.request, { handles: [1 as never] });
      let turn = 0;
      raw.flood(1000, () =>
        turn++ % 2 === 0
          ? { opcode: Enqueue.opcode, body: enqueue }
          : { opcode: Cancel.opcode, body: cancel },
      );
      return;
    }
  }
}

/** One request after the other. */
async function suffer(task: FloodTask & { readonly victim: Victim }): Promise<void> {
  const raw = await RawConnection.to(task);
  const home = await raw.make(ROOT_FID, `${task.name}-${process.pid}`, DIRECTORY);
  const content = task.victim === 'read' ? await raw.content(home, 'PR') : home;
  for (let at = 0; ; at += 1) {
    switch (task.victim) {
      case 'stat':
        await raw.call(Getattr, { fid: home, want: 0 });
        break;
      case 'read':
        await raw.call(Read, { fid: content, offset: (at % 256) * SMALL_READ, length: SMALL_READ });
        break;
      case 'create':
        await raw.make(home, `file-${at}`, FILE);
        await raw.call(Unlink, { parent: home, name: `file-${at}` as Name, directory: false });
        break;
    }
  }
}

function count(): Done {
  const { user, system } = process.cpuUsage();
  return { requests, failed, processorMs: (user + system) / 1000 };
}

async function main(task: FloodTask): Promise<void> {
  const { flood: kind, victim } = task;
  process.on('message', () => process.send?.(count()));
  process.once('disconnect', () => process.exit());
  // Ready when something is answered beyond the preparations.
  if (victim !== undefined) void suffer({ ...task, victim });
  else if (kind !== undefined) await flood({ ...task, flood: kind });
  process.send?.('ready');
}

await main(JSON.parse(process.argv[2] ?? '') as FloodTask);
