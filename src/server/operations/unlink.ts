/** UNLINK and LINK: they remove a name, or add one. Their rules: src/rules/unlink.ts, src/rules/link.ts. */

import { S_IFDIR, S_IFREG } from '../../base/attr.js';
import type { Fid } from '../../base/ids.js';
import type { Incoming } from '../../rpc/api.js';
import { applyLink, checkLink, checkLinkPlace } from '../../rules/link.js';
import { applyUnlink, checkUnlink, findVictim } from '../../rules/unlink.js';
import type { Dirent, ReplyRecord } from '../../storage/api.js';
import { BIT_ATTR, BIT_UPDATE } from '../../wire/lock.js';
import type { Link, Unlink } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { O_TMPFILE_BIT } from '../export/open_table.js';
import type { ServedCall } from '../target/served_call.js';
import { circumstancesOf } from './circumstances.js';
import { inodeOrGone } from './executed_before.js';
import { attrBits } from './reply_grants.js';
import { type Answered, inodeLock, locked } from './with_locks.js';

export function unlink(
  call: ServedCall,
  request: RequestOf<typeof Unlink>,
  incoming: Incoming<ReplyOf<typeof Unlink>>,
): Answered<ReplyOf<typeof Unlink>> {
  const { store } = call.target;
  const { parent } = request;
  let entry: Dirent;
  call.looksInto = [parent];
  return locked(
    call,
    incoming,
    () => {
      entry = findVictim(store, request);
      return [
        inodeLock(parent, 'EX', BIT_UPDATE | BIT_ATTR),
        // Also calls back the listing of a directory: other clients may have cached that it is empty.
        inodeLock(entry.fid, 'EX', attrBits(entry.type)),
      ];
    },
    () => {
      checkUnlink(store, request, entry);
      const { result, transno } = call.execute(
        (tx) => applyUnlink(tx, request, entry, circumstancesOf(call, request)),
        entry.fid,
        true,
      );
      return { reply: result, transno };
    },
  );
}

export function link(
  call: ServedCall,
  request: RequestOf<typeof Link>,
  incoming: Incoming<ReplyOf<typeof Link>>,
): Answered<ReplyOf<typeof Link>> {
  const { store } = call.target;
  const { fid, parent } = request;
  call.looksInto = [parent];
  return locked(
    call,
    incoming,
    () => {
      checkLinkPlace(store, request);
      return [inodeLock(parent, 'EX', BIT_UPDATE | BIT_ATTR), inodeLock(fid, 'EX', BIT_ATTR)];
    },
    () => {
      checkLink(store, request, () => isNamelessByBirth(call, fid));
      const { result, transno } = call.execute(
        (tx) => applyLink(tx, request, circumstancesOf(call, request)),
        fid,
      );
      return { reply: result, transno };
    },
  );
}

/** True if this client opened the inode with O_TMPFILE. */
function isNamelessByBirth(call: ServedCall, fid: Fid): boolean {
  // In a replay nothing is open yet; the first execution has checked it.
  if (call.isReplay) return true;
  for (const handle of call.client.opens.values()) {
    if (handle.fid === fid && (handle.flags & O_TMPFILE_BIT) !== 0) return true;
  }
  return false;
}

/** For an operation that was executed before: answers with the inodes that the names lead to now. */
export function unlinked(
  call: ServedCall,
  request: RequestOf<typeof Unlink>,
  done: ReplyRecord,
): ReplyOf<typeof Unlink> {
  const { store } = call.target;
  return {
    attr: inodeOrGone(store, done.fid as Fid, request.directory ? S_IFDIR : S_IFREG),
    parentAttr: inodeOrGone(store, request.parent, S_IFDIR),
  };
}

export function linked(call: ServedCall, request: RequestOf<typeof Link>): ReplyOf<typeof Link> {
  const { store } = call.target;
  return {
    attr: inodeOrGone(store, request.fid),
    parentAttr: inodeOrGone(store, request.parent, S_IFDIR),
  };
}
