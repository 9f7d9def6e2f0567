/** A server with an access entry that squashes root, files of root's, and clients that come with the entry's key. */

import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { type Fid, ROOT_FID } from '../../src/base/ids.js';
import type { Origin } from '../../src/runtime/ports.js';
import type { AccessWish } from '../../src/server/access/access_table.js';
import { FLAG_RECOVERY } from '../../src/wire/header.js';
import { type Create, Setattr } from '../../src/wire/meta.js';
import type { RequestOf } from '../../src/wire/operation.js';
import { ReplayTickets } from '../../src/wire/session.js';
import { type RawClient, type ServerWorld, serverWorld } from './server_world.js';

export const USER = { uid: 1000, gid: 1000 } as const;
export const OTHER = { uid: 1001, gid: 1001 } as const;
export const ROOT = { uid: 0, gid: 0, groups: [0, 1000] } as const;

export interface SquashedWorld {
  readonly world: ServerWorld;
  /** Root of the server's host: nothing is checked. */
  readonly root: RawClient;
  /** A client of the entry, connected, with the active lock. */
  client(name?: string): Promise<RawClient>;
  /** Made by root. */
  file(name: string, mode: number, more?: Partial<RequestOf<typeof Create>>): Promise<Fid>;
  directory(name: string, mode: number, more?: Partial<RequestOf<typeof Create>>): Promise<Fid>;
}

/** Connects to the next instance, up to the proofs. */
export async function backWith(
  client: RawClient,
  tickets: RequestOf<typeof ReplayTickets>['tickets'],
): Promise<void> {
  const { outcome, reason } = await client.connect({
    secret: `secret of ${client.name}`,
    hasMoreThanOpens: true,
  });
  assert.equal(outcome, 'recover', reason);
  await client.call(ReplayTickets, { tickets }, { flags: FLAG_RECOVERY });
}

export function withKey(identity: string): Origin {
  return { proof: { kind: 'key', identity }, address: '10.0.0.1', port: 40_000, sameHost: false };
}

export async function squashedWorld(t: TestContext, wish: Partial<AccessWish> = {}): Promise<SquashedWorld> {
  const world = await serverWorld(t);
  await world.server();
  const { key } = world.table.add({
    name: 'web',
    kind: 'key',
    readOnly: false,
    squashRoot: true,
    admin: false,
    from: [],
    limits: {},
    ...wish,
  });
  assert.ok(key, 'the entry has a key');
  const root = await world.replaying('root');
  const make = async (name: string, mode: number, more: Partial<RequestOf<typeof Create>>): Promise<Fid> => {
    const { attr } = await root.create(name, { uid: 0, gid: 0, mode, ...more });
    return attr.fid;
  };
  // As an administrator does it.
  await root.call(Setattr, { fid: ROOT_FID, mode: 0o755 });
  return {
    world,
    root,
    async client(name) {
      const client = world.client(name);
      client.features = 0xfff;
      client.origin = withKey(key.id);
      client.locksContent = false;
      await client.connect({ secret: `secret of ${client.name}` });
      await client.activate();
      return client;
    },
    file: (name, mode, more = {}) => make(name, 0o100000 | mode, more),
    directory: (name, mode, more = {}) => make(name, 0o040000 | mode, more),
  };
}
