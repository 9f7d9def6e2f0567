/** The tickets that a client keeps. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Fid } from '../../../../src/base/ids.js';
import { Tickets } from '../../../../src/client/session/tickets.js';

const ticket = (fid: number, access: number, byte: number) => ({
  fid: fid as Fid,
  access,
  ticket: Buffer.alloc(16, byte),
});

test('a file has one ticket for each access, the latest, and no ticket keeps the memory of a message', () => {
  const tickets = new Tickets();
  const message = Buffer.alloc(16, 1);
  tickets.add({ fid: 5 as Fid, access: 1, ticket: message });
  message.fill(0);
  tickets.add(ticket(5, 2, 2));
  tickets.add(ticket(5, 2, 3));
  tickets.add(ticket(6, 3, 4));
  assert.deepEqual(
    tickets.all().map(({ fid, access, ticket: [byte] }) => [fid, access, byte]),
    [
      [5, 1, 1],
      [5, 2, 3],
      [6, 3, 4],
    ],
  );
});

test('files that nobody uses are forgotten when there are many, and the use is looked up only then', () => {
  const tickets = new Tickets();
  let looked = 0;
  const sweep = (): void =>
    tickets.sweep(() => {
      looked += 1;
      return (fid) => fid % 100 === 0;
    });
  for (let fid = 1; fid <= 1023; fid++) tickets.add(ticket(fid, 1, 1));
  sweep();
  assert.deepEqual([tickets.size, looked], [1023, 0]);
  tickets.add(ticket(2000, 1, 1));
  sweep();
  assert.deepEqual([tickets.size, looked], [11, 1]);
});
