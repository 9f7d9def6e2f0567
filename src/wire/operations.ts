/** All operations, by opcode. An opcode is never reused. */

import {
  AccessAdd,
  AccessList,
  AccessRemove,
  AccessRotate,
  DrainProgress,
  Evict,
  Holdings,
  Metrics,
  Shutdown,
  ShutdownEnds,
  Status,
} from './admin.js';
import { Batch } from './batch.js';
import { CopyRange, Fallocate, Read, Seek, Sync, Write } from './data.js';
import { Bast, Cancel, Cast, Enqueue, Glimpse, Gone, Nameless, TestFlock, Unflock } from './lock.js';
import {
  Close,
  Create,
  Getattr,
  Getxattr,
  Link,
  Listxattr,
  Lookup,
  Open,
  Readdir,
  Readlink,
  Removexattr,
  Rename,
  Setattr,
  Setxattr,
  Statfs,
  Unlink,
} from './meta.js';
import type { Operation } from './operation.js';
import {
  Connect,
  Disconnect,
  Evicted,
  GetFids,
  Ping,
  RecoveryDone,
  Replayed,
  ReplayLocks,
  ReplayOpens,
  ReplayTickets,
} from './session.js';

export type AnyOperation = Operation<unknown, unknown>;

/** Families, each with the opcodes [first, last] that are reserved for it. */
export const FAMILIES: readonly {
  readonly name: string;
  readonly first: number;
  readonly last: number;
  readonly operations: readonly AnyOperation[];
}[] = [
  {
    name: 'session',
    first: 1,
    last: 15,
    operations: [
      Connect,
      Disconnect,
      Ping,
      RecoveryDone,
      GetFids,
      ReplayOpens,
      Evicted,
      Replayed,
      ReplayLocks,
      ReplayTickets,
    ],
  },
  {
    name: 'lock',
    first: 16,
    last: 47,
    operations: [Enqueue, Cancel, TestFlock, Unflock, Bast, Cast, Glimpse, Nameless, Gone],
  },
  {
    name: 'meta',
    first: 64,
    last: 95,
    operations: [
      Lookup,
      Getattr,
      Setattr,
      Readlink,
      Create,
      Open,
      Close,
      Unlink,
      Rename,
      Link,
      Readdir,
      Getxattr,
      Setxattr,
      Listxattr,
      Removexattr,
      Statfs,
      Batch,
    ],
  },
  { name: 'data', first: 96, last: 111, operations: [Read, Write, Sync, Fallocate, Seek, CopyRange] },
  {
    name: 'admin',
    first: 128,
    last: 143,
    operations: [
      Status,
      Shutdown,
      Evict,
      DrainProgress,
      ShutdownEnds,
      AccessList,
      AccessAdd,
      AccessRemove,
      AccessRotate,
      Metrics,
      Holdings,
    ],
  },
];

export const OPERATIONS: ReadonlyMap<number, AnyOperation> = new Map(
  FAMILIES.flatMap((family) => family.operations.map((operation) => [operation.opcode, operation] as const)),
);

/** For logs: the operation's name, or its number if a newer peer sends one that we do not know. */
export function operationName(opcode: number): string {
  return OPERATIONS.get(opcode)?.name ?? `opcode ${opcode}`;
}
