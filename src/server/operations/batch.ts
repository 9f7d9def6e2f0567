/**
 * BATCH: operations that a client has executed by itself, under own locks (docs/LOCKING.md, "Own locks").
 *
 * Programs know their results already, so the server executes all of them or evicts the client. It does that in the turn in
 * which the BATCH comes, as one transaction with one transno and one reply record, and waits for nothing: for no lock, because
 * the client has locks that exclude all others; for no room, because the client pays from its metadata grant; and for no commit
 * of what other clients have changed, because the grant of the own lock waited for it.
 */

import { FsError } from '../../base/errno.js';
import { type Fid, ROOT_FID } from '../../base/ids.js';
import type { HandlerOutcome, Incoming } from '../../rpc/api.js';
import type { Executed, Reader } from '../../storage/api.js';
import { type Batch, operationCost } from '../../wire/batch.js';
import type { GrantMessage } from '../../wire/lock.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { evict, noteBatch } from '../target/eviction.js';
import { destroyInSteps } from '../target/orphans.js';
import type { ServedCall } from '../target/served_call.js';
import { type Batched, BatchedOperations } from './batched_operations.js';
import { grantMade } from './reply_grants.js';

type Request = RequestOf<typeof Batch>;
type Reply = ReplyOf<typeof Batch>;

export function batch(call: ServedCall, request: Request, incoming: Incoming<Reply>): HandlerOutcome<Reply> {
  const { target, client } = call;
  assertServing(call);
  noteBatch(client, call.header.bodyLength + incoming.bulk.length);
  // A client that has nothing to send asks for a grant.
  if (request.operations.length === 0) return { reply: replyTo(call, request, []) };
  const { result, transno } = execute(call, request, incoming.bulk);
  void destroyInSteps(target, result.unused);
  const reply = replyTo(call, request, result.positions);
  waitForRoom(call);
  return { reply, transno };
}

/** For a BATCH that was executed before: answers with the state as it is now, and grants the locks again. */
export function batchedBefore(call: ServedCall, request: Request): Reply {
  const { target, client } = call;
  target.metaGrants.spend(client, request.grantUsed);
  const positions = request.operations.flatMap((one) => positionNow(target.store, one) ?? []);
  return replyTo(call, request, positions);
}

/**
 * A target that has failed, or whose server stops, refuses nothing: the client gets no answer here, and sends the BATCH to the
 * next instance.
 * @throws FsError
 */
function assertServing(call: ServedCall): void {
  try {
    call.assertLive();
    call.target.store.hasInode(ROOT_FID);
  } catch (error) {
    call.link.destroy(error instanceof FsError ? error : undefined);
    throw error;
  }
}

/** @throws what has refused an operation; then nothing is changed, and the client is evicted. */
function execute(call: ServedCall, request: Request, bulk: Buffer): Executed<BatchedOperations> {
  const { operations, positions = [] } = request;
  let at = 0;
  try {
    if (!call.isReplay) pay(call, request);
    return call.execute(
      (tx) => {
        const batched = new BatchedOperations(call, tx, bulk, positions);
        for (const one of operations) {
          at += 1;
          batched.execute(one);
        }
        batched.finish();
        call.alsoChanged = batched.changes();
        return batched;
      },
      0,
      'own',
    );
  } catch (error) {
    // session/replay.ts evicts the client of a replay that fails.
    if (!call.isReplay) {
      const why = error instanceof FsError ? `${error.code}: ${error.message}` : 'internal error';
      const where = `operation ${at} of ${operations.length}`;
      evict(call.target, call.client, `the server had to refuse its BATCH at ${where}: ${why}`);
    }
    throw error;
  }
}

/** @throws FsError ENOSPC if the client has not paid, and the room is promised to others. */
function pay({ target, client }: ServedCall, { operations, grantUsed }: Request): void {
  const paidBytes = target.metaGrants.spend(client, grantUsed);
  const unpaidBytes = operations.reduce((sum, one) => sum + costOf(one), 0) - paidBytes;
  if (unpaidBytes > 0 && unpaidBytes > target.store.metaRoom.promisableBytes()) {
    throw new FsError('ENOSPC', `${unpaidBytes} bytes are not paid, and not there`);
  }
}

function costOf({ create, unlink, rename, content }: Batched): number {
  const names = [create?.name, create?.target, unlink?.name, rename?.name, rename?.newName];
  const nameBytes = names.reduce((sum, text) => sum + (text?.length ?? 0), 0);
  return operationCost(nameBytes, content?.lengthBytes ?? 0);
}

function replyTo(call: ServedCall, { operations }: Request, positions: readonly number[]): Reply {
  const { target, client } = call;
  const { store } = target;
  const locks: GrantMessage[] = [];
  for (const { create } of operations) {
    const inode = create === undefined ? undefined : store.inode(create.fid);
    if (create !== undefined && inode !== undefined) grantMade(call, create.want, inode, locks);
  }
  const fids = new Set(operations.flatMap(directoriesOf));
  const directories = [...fids].flatMap((fid) => store.inode(fid) ?? []).filter(({ nlink }) => nlink > 0);
  const grantBytes = call.isReplay ? 0 : target.metaGrants.refill(client);
  return { locks, grantBytes, positions, directories };
}

/** The directories whose names it changes. */
function directoriesOf({ create, unlink, rename }: Batched): Fid[] {
  const fids = [create?.parent, unlink?.parent, rename?.parent, rename?.newParent];
  return fids.filter((fid) => fid !== undefined);
}

/** Where the name that the operation made lies now; 0 if it does not lead there any more. undefined: it makes none. */
function positionNow(reader: Reader, { create, rename }: Batched): number | undefined {
  if (create?.name !== undefined) {
    const entry = reader.dirent(create.parent, create.name);
    return entry?.fid === create.fid ? entry.cookie : 0;
  }
  return rename && (reader.dirent(rename.newParent, rename.newName)?.cookie ?? 0);
}

/** On a nearly full meta device the client's next BATCH does not come before there is room again. */
function waitForRoom({ target, link, isReplay }: ServedCall): void {
  const room = isReplay ? undefined : target.store.room();
  if (room === undefined) return;
  link.pause();
  const goOn = (): void => link.resume();
  Promise.all([target.holds.letGo(), room]).then(goOn, goOn);
}
