/** UNLINK and LINK: names that go and come without moving. */

import { isDir, S_IFDIR, S_IFMT, S_IFREG } from '../../base/attr.js';
import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { Incoming } from '../../rpc/api.js';
import type { Dirent, Inode, ReplyRecord } from '../../storage/api.js';
import { BIT_ATTR, BIT_UPDATE } from '../../wire/lock.js';
import type { Link, Unlink } from '../../wire/meta.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';
import { O_TMPFILE_BIT } from '../export/open_table.js';
import type { ServedCall } from '../target/served_call.js';
import { inodeOrGone, needDirectory, needEntry, needInode, needLiveDirectory } from './checks.js';
import { Edits } from './inode_edits.js';
import { attrBits } from './reply_grants.js';
import { type Answered, inodeLock, locked } from './with_locks.js';

/** As ext4 has it; programs that count links are tested against it. Directories are not limited. */
export const LINK_MAX = 65_000;

export function unlink(
  call: ServedCall,
  request: RequestOf<typeof Unlink>,
  incoming: Incoming<ReplyOf<typeof Unlink>>,
): Answered<ReplyOf<typeof Unlink>> {
  const { store } = call.target;
  const { parent, name, directory } = request;
  let entry: Dirent;
  return locked(
    call,
    incoming,
    () => {
      needDirectory(store, parent);
      entry = needEntry(store, parent, name);
      return [
        inodeLock(parent, 'EX', BIT_UPDATE | BIT_ATTR),
        // A directory's listing goes too: others may have cached that it is empty.
        inodeLock(entry.fid, 'EX', attrBits(entry.type)),
      ];
    },
    () => {
      const { fid, type } = entry;
      if (directory && !isDir(type)) throw new FsError('ENOTDIR');
      if (!directory && isDir(type)) throw new FsError('EISDIR');
      if (directory && !store.directoryEmpty(fid)) throw new FsError('ENOTEMPTY');
      const { result, transno } = call.execute(
        (tx) => {
          const edits = new Edits(call, tx, request.time);
          tx.removeDirent(parent, name);
          const attr = edits.dropName(fid);
          const parentAttr = edits.changeDirectory(parent, directory ? -1 : 0);
          edits.write();
          return { attr, parentAttr };
        },
        fid,
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
  const { fid, parent, name } = request;
  return locked(
    call,
    incoming,
    () => {
      needInode(store, fid);
      needLiveDirectory(store, parent);
      return [inodeLock(parent, 'EX', BIT_UPDATE | BIT_ATTR), inodeLock(fid, 'EX', BIT_ATTR)];
    },
    () => {
      const inode = needInode(store, fid);
      if (isDir(inode.mode)) throw new FsError('EPERM', 'directories have one name');
      if (store.dirent(parent, name) !== undefined) throw new FsError('EEXIST');
      if (inode.nlink >= LINK_MAX) throw new FsError('EMLINK');
      // In a replay nothing is open yet; it was judged when the operation was executed first.
      if (inode.nlink === 0 && !call.isReplay && !isNamelessByBirth(call, inode))
        throw new FsError('ENOENT', 'it was unlinked');
      const { result, transno } = call.execute((tx) => {
        const edits = new Edits(call, tx, request.time);
        if (inode.nlink === 0) tx.removeOrphan(fid);
        tx.putDirent(parent, name, fid, entryType(inode));
        const attr = edits.change(fid, { nlink: inode.nlink + 1, ctime: edits.now });
        const parentAttr = edits.changeDirectory(parent, 0);
        edits.write();
        return { attr, parentAttr };
      }, fid);
      return { reply: result, transno };
    },
  );
}

/** Opened by this client with O_TMPFILE: linkat(2) may give it its first name, which an unlinked file never gets. */
function isNamelessByBirth(call: ServedCall, inode: Inode): boolean {
  for (const handle of call.client.opens.values()) {
    if (handle.fid === inode.fid && (handle.flags & O_TMPFILE_BIT) !== 0) return true;
  }
  return false;
}

export function entryType(inode: Inode): number {
  return inode.mode & S_IFMT;
}

/** They were executed before: what the names lead to now. */
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
