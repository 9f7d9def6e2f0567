/**
 * Metadata family. Opcodes 64-95. Every Attr in a reply is the state right after the operation, and the server sends
 * replies in the order of execution. So a client that applies messages as they arrive never goes back in time.
 *
 * `time` in a request is for replays (FLAG_REPLAY), which must not change a timestamp that a client has seen. It is the
 * time that the server's clock gave the operation at its first execution. The client takes it from the answer (ctime of
 * attr, or of parentAttr if there is one). In other requests it is absent, and the server ignores it.
 *
 * `position` in a reply says where the new name lies in its directory (a cookie); after RENAME, the first of the new names. In
 * a request it is for replays: a listing that a crash interrupts has the name once.
 */

import type { Fh } from '../base/ids.js';
import { caller } from './caller.js';
import { grants } from './lock.js';
import { Empty, operation } from './operation.js';
import {
  attr,
  bool,
  branded,
  bytes,
  fid,
  list,
  message,
  name,
  nested,
  type Of,
  opt,
  req,
  text,
  timespec,
  u8,
  u32,
  uint,
} from './schema.js';
import { TICKET_BYTES } from './session.js';

/**
 * Locks that a client wants with a reply. The server grants them only if it need not call anybody back for them. For
 * PARENT and ATTR the operation's own server locks have called others back already.
 */
export const WANT_PARENT = 1; // UPDATE|ATTR PR on the directory
export const WANT_ATTR = 2; // ATTR PR on the inode (UPDATE|ATTR on a directory)
export const WANT_DATA_READ = 4; // data PR on a regular file
export const WANT_DATA_WRITE = 8; // data PW on a regular file
/**
 * FEATURE.batch: own locks. The holder of UPDATE|ATTR EX on a directory decides alone what is in it, and sends that later
 * (BATCH). The server grants no own lock while another client has a lock that conflicts.
 */
export const WANT_OWN_PARENT = 16; // UPDATE|ATTR EX on the directory
export const WANT_OWN = 32; // UPDATE|ATTR EX on the inode, if it is a directory

/** The whole content of a small file, with a data lock that the client wants too. A server of an earlier release sends none. */
export const WANT_CONTENT = 64;
/**
 * FEATURE.ownFiles, in LOOKUP and READDIR: ATTR EX on the inode, if it is no directory, beside what ATTR asks for. The holder
 * decides alone what the attributes are and where in its own directories the name is, and sends that later (BATCH). The server grants it only
 * to the owner of the directory, for an inode that has no second name and on which no other client has a lock.
 */
export const WANT_OWN_FILES = 128;
/** Most bytes of such a content. */
export const CONTENT_MAX = 4032;

export const fh = branded<Fh>('fh');
/** Says to the next instance what the client may do with a file: see REPLAY_TICKETS. */
const ticket = bytes(TICKET_BYTES);
export const SYMLINK_MAX = 4095;
export const XATTR_VALUE_MAX = 65536;
/** xattr names are bytes, as latin1 text like Name. */
export const xattrName = text(255);

/** lookup, stat: LOOKUP. */
export const Lookup = operation(
  64,
  'LOOKUP',
  message('LookupRequest', {
    parent: req(1, fid),
    name: req(2, name),
    want: req(3, u8),
    caller: opt(4, caller),
  }),
  /**
   * If attr is absent, there is no such name; with WANT_PARENT the client may cache that too. `locks` may be fewer than
   * wanted.
   */
  message('LookupReply', { attr: opt(1, attr), locks: req(2, grants), content: opt(3, bytes(CONTENT_MAX)) }),
);
/** stat, fstat. Size and mtime are exact: the server has glimpsed a PW holder. */
export const Getattr = operation(
  65,
  'GETATTR',
  message('GetattrRequest', { fid: req(1, fid), want: req(2, u8) }),
  message('GetattrReply', { attr: req(1, attr), locks: req(2, grants) }),
);
/** chmod, chown, truncate, ftruncate, utimensat, and the removal of set-id bits by a write. */
export const Setattr = operation(
  66,
  'SETATTR',
  message('SetattrRequest', {
    fid: req(1, fid),
    mode: opt(2, u32),
    uid: opt(3, u32),
    gid: opt(4, u32),
    sizeBytes: opt(5, uint),
    atime: opt(6, timespec),
    mtime: opt(7, timespec),
    /** Use the server's clock instead. */
    atimeNow: opt(8, bool),
    mtimeNow: opt(9, bool),
    ctime: opt(10, timespec),
    /** Drop S_ISUID, and S_ISGID if the group may execute, as the kernel asks with HANDLE_KILLPRIV_V2. */
    killSuidgid: opt(11, bool),
    time: opt(12, timespec),
    caller: opt(13, caller),
  }),
  message('SetattrReply', { attr: req(1, attr) }),
  'modifies',
);
export const Readlink = operation(
  67,
  'READLINK',
  message('ReadlinkRequest', { fid: req(1, fid) }),
  message('ReadlinkReply', { target: req(1, bytes(SYMLINK_MAX)) }),
);
/** mknod, mkdir, symlink, creat, open(O_CREAT), O_TMPFILE: the type is in mode. */
export const Create = operation(
  68,
  'CREATE',
  message('CreateRequest', {
    parent: req(1, fid),
    /** Absent: O_TMPFILE, the new inode is an orphan from the beginning. */
    name: opt(2, name),
    /** FID for the new object, from a range granted to this client. */
    fid: req(3, fid),
    mode: req(4, u32),
    umask: req(5, u32),
    uid: req(6, u32),
    gid: req(7, u32),
    rdev: opt(8, u32),
    target: opt(9, bytes(SYMLINK_MAX)),
    /** true: EEXIST if the name exists. false: opens an existing regular file. */
    exclusive: req(10, bool),
    /** If present, the file is also opened, with this handle. */
    fh: opt(11, fh),
    flags: opt(12, u32),
    want: req(13, u8),
    time: opt(14, timespec),
    position: opt(15, uint),
    /** The owner of what is made: uid and gid do not count then. */
    caller: opt(16, caller),
  }),
  message('CreateReply', {
    attr: req(1, attr),
    parentAttr: opt(2, attr),
    existed: req(3, bool),
    locks: req(4, grants),
    position: opt(5, uint),
    /** With fh, for a session that squashes root: see REPLAY_TICKETS. */
    ticket: opt(6, ticket),
  }),
  'modifies',
);
/** open, opendir. O_TRUNC in flags truncates. */
export const Open = operation(
  69,
  'OPEN',
  message('OpenRequest', {
    fid: req(1, fid),
    fh: req(2, fh),
    flags: req(3, u32),
    want: req(4, u8),
    time: opt(5, timespec),
    caller: opt(6, caller),
  }),
  message('OpenReply', { attr: req(1, attr), locks: req(2, grants), ticket: opt(3, ticket) }),
  'modifies',
);
/**
 * Closes handles for good, and releases inodes without a name that the client's kernel does not refer to any more. The
 * server ignores those it does not know. It destroys an unlinked inode with its last use.
 */
export const Close = operation(
  70,
  'CLOSE',
  message('CloseRequest', {
    fhs: req(1, list(fh, 10_000)),
    /** FEATURE.holds. */
    released: opt(2, list(fid, 10_000)),
  }),
  Empty,
  'modifies',
);
/** unlink, rmdir. */
export const Unlink = operation(
  71,
  'UNLINK',
  message('UnlinkRequest', {
    parent: req(1, fid),
    name: req(2, name),
    directory: req(3, bool),
    time: opt(4, timespec),
    caller: opt(5, caller),
  }),
  /** attr: of the unlinked inode; its nlink is 0 if that was its last name. */
  message('UnlinkReply', { attr: req(1, attr), parentAttr: req(2, attr) }),
  'modifies',
);
export const RENAME_NOREPLACE = 1;
export const RENAME_EXCHANGE = 2;
export const RENAME_WHITEOUT = 4;
export const Rename = operation(
  72,
  'RENAME',
  message('RenameRequest', {
    parent: req(1, fid),
    name: req(2, name),
    newParent: req(3, fid),
    newName: req(4, name),
    flags: req(5, u32),
    time: opt(6, timespec),
    /**
     * With WHITEOUT: the FID for a new character device 0:0, and its owner (uid, gid). A server of an earlier release
     * answers EINVAL.
     */
    whiteoutFid: opt(7, fid),
    uid: opt(8, u32),
    gid: opt(9, u32),
    position: opt(10, uint),
    /** The owner of the whiteout too. */
    caller: opt(11, caller),
  }),
  message('RenameReply', {
    attr: req(1, attr),
    parentAttr: req(2, attr),
    newParentAttr: req(3, attr),
    /** The inode that had the new name: now unlinked, or under the old name (EXCHANGE). */
    otherAttr: opt(4, attr),
    /** With WHITEOUT: the inode to which the old name leads now. */
    whiteoutAttr: opt(5, attr),
    position: opt(6, uint),
  }),
  'modifies',
);
export const Link = operation(
  73,
  'LINK',
  message('LinkRequest', {
    fid: req(1, fid),
    parent: req(2, fid),
    name: req(3, name),
    time: opt(4, timespec),
    position: opt(5, uint),
    caller: opt(6, caller),
  }),
  message('LinkReply', { attr: req(1, attr), parentAttr: req(2, attr), position: opt(3, uint) }),
  'modifies',
);
/** getdents; with FEATURE.readdirPlus also for the stat calls that follow it. */
export const Readdir = operation(
  74,
  'READDIR',
  message('ReaddirRequest', {
    fid: req(1, fid),
    /** 0, or the cookie of the last entry seen. Cookies are stable for the life of the directory, restarts included. */
    cookie: req(2, uint),
    limit: req(3, u32),
    plus: req(4, bool),
    want: req(5, u8),
    caller: opt(6, caller),
  }),
  message('ReaddirReply', {
    entries: req(
      1,
      list(
        nested(
          message('DirEntry', {
            name: req(1, name),
            fid: req(2, fid),
            /** S_IFMT bits. */
            type: req(3, u32),
            cookie: req(4, uint),
            attr: opt(5, attr),
            content: opt(6, bytes(CONTENT_MAX)),
          }),
        ),
        10_000,
      ),
    ),
    /** No entry follows. */
    end: req(2, bool),
    locks: req(3, grants),
    /** The directory's parent, for '..'. */
    parent: req(4, fid),
  }),
);
export const Getxattr = operation(
  75,
  'GETXATTR',
  message('GetxattrRequest', { fid: req(1, fid), name: req(2, xattrName), caller: opt(3, caller) }),
  message('GetxattrReply', { value: req(1, bytes(XATTR_VALUE_MAX)) }),
);
/** flags: XATTR_CREATE 1, XATTR_REPLACE 2. */
export const Setxattr = operation(
  76,
  'SETXATTR',
  message('SetxattrRequest', {
    fid: req(1, fid),
    name: req(2, xattrName),
    value: req(3, bytes(XATTR_VALUE_MAX)),
    flags: req(4, u32),
    /** FUSE_SETXATTR_ACL_KILL_SGID. */
    killSgid: opt(5, bool),
    time: opt(6, timespec),
    caller: opt(7, caller),
  }),
  message('SetxattrReply', { attr: req(1, attr) }),
  'modifies',
);
export const Listxattr = operation(
  77,
  'LISTXATTR',
  message('ListxattrRequest', { fid: req(1, fid) }),
  message('ListxattrReply', { names: req(1, list(xattrName, 10_000)) }),
);
export const Removexattr = operation(
  78,
  'REMOVEXATTR',
  message('RemovexattrRequest', {
    fid: req(1, fid),
    name: req(2, xattrName),
    time: opt(3, timespec),
    caller: opt(4, caller),
  }),
  message('RemovexattrReply', { attr: req(1, attr) }),
  'modifies',
);
export const Statfs = operation(
  79,
  'STATFS',
  Empty,
  message('StatfsReply', {
    blockBytes: req(1, u32),
    blocks: req(2, uint),
    blocksFree: req(3, uint),
    blocksAvailable: req(4, uint),
    inodes: req(5, uint),
    inodesFree: req(6, uint),
  }),
);
export type StatfsMessage = Of<typeof Statfs.reply>;
