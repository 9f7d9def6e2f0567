/** Which connections a server takes, by how they have proved who they are. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AddressRange } from '../../../../src/base/address_range.js';
import type { Origin, Proof } from '../../../../src/runtime/ports.js';
import type { AccessTable } from '../../../../src/server/access/access_table.js';
import { type PlainAccess, rightsOfPeer } from '../../../../src/server/access/peers.js';
import { serverWorld } from '../../../worlds/server_world.js';

const PLAIN: PlainAccess = { from: [new AddressRange('10.0.0.0/8')] };

function origin(proof: Proof, more: Partial<Origin> = {}): Origin {
  return { proof, address: '10.1.2.3', port: 1000, sameHost: false, ...more };
}

function outcome(
  from: Origin,
  table?: AccessTable,
  { as, plain }: { readonly as?: string; readonly plain?: PlainAccess } = {},
): string {
  try {
    const { principal, admin, readOnly, squashRoot } = rightsOfPeer(from, as, table, plain);
    const words = [admin && 'admin', readOnly && 'read-only', squashRoot && 'squashed'].filter(
      (word) => word !== false,
    );
    return [principal, ...words].join(' ');
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
}

test('root of this host may do everything, other users of it nothing', () => {
  assert.equal(outcome(origin({ kind: 'local', uid: 0, trusted: true })), 'local admin');
  assert.equal(outcome(origin({ kind: 'local', uid: 1000, trusted: false })), 'EACCES');
  // Nor with --tls=off: a Unix socket has no source port that would prove anything.
  const all = { from: [new AddressRange('0.0.0.0/0')] };
  assert.equal(
    outcome(origin({ kind: 'local', uid: 1000, trusted: false }), undefined, { plain: all }),
    'EACCES',
  );
});

test('a connection that proves nothing comes in only with --tls=off, from its networks and privileged ports', () => {
  const none: Proof = { kind: 'none' };
  assert.equal(outcome(origin(none)), 'EACCES');
  const plain = { plain: PLAIN };
  assert.equal(outcome(origin(none), undefined, plain), 'plain');
  assert.equal(outcome(origin(none, { port: 1024 }), undefined, plain), 'EACCES');
  assert.equal(outcome(origin(none, { address: '11.1.2.3' }), undefined, plain), 'EACCES');
  assert.equal(outcome(origin(none, { address: undefined }), undefined, plain), 'EACCES');
  // On this host the kernel says whose the socket is, and ports say nothing: a container may give low ones to everybody.
  assert.equal(outcome(origin(none, { port: 90, sameHost: true }), undefined, plain), 'EACCES');
  assert.equal(
    outcome(origin(none, { port: 40_000, sameHost: true, isOwners: () => true }), undefined, plain),
    'local admin',
  );
});

test('a key or a certificate has the rights of its entry, and only from its networks', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const table = world.table;
  const wish = {
    kind: 'key',
    readOnly: false,
    squashRoot: true,
    admin: false,
    from: [],
    limits: {},
  } as const;
  const open = table.add({ ...wish, name: 'open' }).key;
  const near = table.add({
    ...wish,
    name: 'near',
    squashRoot: false,
    admin: true,
    from: ['10.1.0.0/16'],
  }).key;
  table.add({ ...wish, name: 'web.example', kind: 'certificate', readOnly: true });
  const byKey = (identity = ''): Proof => ({ kind: 'key', identity });
  assert.equal(outcome(origin(byKey(open?.id)), table), 'key:open squashed');
  assert.equal(outcome(origin(byKey(near?.id)), table), 'key:near admin');
  assert.equal(outcome(origin(byKey(near?.id), { address: '10.2.0.1' }), table), 'EACCES');
  assert.equal(outcome(origin(byKey('0000000000000000')), table), 'EACCES');
  const certified = (...names: string[]): Proof => ({ kind: 'certificate', names });
  assert.equal(
    outcome(origin(certified('x', 'web.example')), table),
    'certificate:web.example read-only squashed',
  );
  assert.equal(outcome(origin(certified('other.example')), table), 'EACCES');
  // A certificate that names the entry of a key is not that key.
  assert.equal(outcome(origin(certified('open')), table), 'EACCES');
  assert.equal(outcome(origin(certified()), table), 'EACCES');
});

test('a peer of this host may count as an entry of the table', async (t) => {
  const world = await serverWorld(t);
  await world.server();
  const table = world.table;
  table.add({
    name: 'web',
    kind: 'key',
    readOnly: true,
    squashRoot: true,
    admin: false,
    from: ['10.0.0.0/8'],
    limits: {},
  });
  const local = origin({ kind: 'local', uid: 0, trusted: true }, { address: undefined });
  assert.equal(outcome(local, table, { as: 'web' }), 'key:web read-only squashed');
  assert.equal(outcome(local, table, { as: 'nobody' }), 'EACCES');
  const stranger = origin({ kind: 'local', uid: 7, trusted: false });
  assert.equal(outcome(stranger, table, { as: 'web' }), 'EACCES');
});
