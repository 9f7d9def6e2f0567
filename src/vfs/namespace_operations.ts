/** Operations on names and attributes: lookup, getattr, setattr, create, unlink, rename, link, symlinks, xattrs. */

import { S_IFDIR, S_IFLNK } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import type { Fh, Fid } from '../base/ids.js';
import { andThen, isPromise, type MaybePromise } from '../base/maybe_promise.js';
import type { AttrsWithValidity, Caller, NewObject, NoEntry } from '../client/api.js';
import type { AttrOut, EntryOut, FuseHandlers, NegativeEntry, SetattrIn } from '../fuse/handlers.js';
import { SYMLINK_MAX } from '../wire/meta.js';
import { checkName, type VfsContext } from './context.js';

type NamespaceHandlers = Pick<
  FuseHandlers,
  | 'lookup'
  | 'forget'
  | 'getattr'
  | 'setattr'
  | 'readlink'
  | 'symlink'
  | 'mknod'
  | 'mkdir'
  | 'unlink'
  | 'rmdir'
  | 'rename'
  | 'link'
  | 'statfs'
  | 'getxattr'
  | 'setxattr'
  | 'listxattr'
  | 'removexattr'
>;

export function namespaceOperations(vfs: VfsContext): NamespaceHandlers {
  const { kernel, nodes } = vfs;

  function entry(answer: MaybePromise<AttrsWithValidity>): MaybePromise<EntryOut> {
    if (!isPromise(answer)) return kernel.entryOut(answer);
    const since = kernel.asOf();
    return answer.then((known) => kernel.entryOut(known, since));
  }

  function attributes(answer: MaybePromise<AttrsWithValidity>): MaybePromise<AttrOut> {
    if (!isPromise(answer)) return kernel.attrOut(answer);
    const since = kernel.asOf();
    return answer.then((known) => kernel.attrOut(known, since));
  }

  function found(
    answer: AttrsWithValidity | NoEntry,
    since?: ReturnType<typeof kernel.asOf>,
  ): EntryOut | NegativeEntry {
    if (answer.attr !== null) return kernel.entryOut(answer, since);
    return { attr: null, entryValidSec: kernel.nameValidSec(answer.nameCacheable, since) };
  }

  function make(op: Caller, parent: number, name: string, object: NewObject): MaybePromise<EntryOut> {
    return entry(vfs.client.create(op, parent as Fid, checkName(name), object));
  }

  return {
    lookup(request, parent, name) {
      const answer = vfs.client.lookup(request, parent as Fid, checkName(name));
      if (!isPromise(answer)) return found(answer);
      const since = kernel.asOf();
      return answer.then((later) => found(later, since));
    },

    forget(nodeid, nlookup) {
      if (nodes.forget(nodeid as Fid, nlookup)) vfs.client.forgotten(nodeid as Fid);
    },

    getattr(request, nodeid) {
      return attributes(vfs.client.getattr(request, nodeid as Fid));
    },

    setattr(request, nodeid, change: SetattrIn) {
      const fh = change.fh as Fh | undefined;
      return attributes(vfs.client.setattr(request, nodeid as Fid, { ...change, fh }));
    },

    readlink(request, nodeid) {
      return vfs.client.readlink(request, nodeid as Fid);
    },

    symlink(request, parent, name, target) {
      if (target.length > SYMLINK_MAX) throw new FsError('ENAMETOOLONG');
      // A copy: the request buffer is valid only until this returns.
      return make(request, parent, name, { mode: S_IFLNK | 0o777, umask: 0, linkText: Buffer.from(target) });
    },

    mknod(request, parent, name, { mode, umask, rdev }) {
      return make(request, parent, name, { mode, umask, rdev });
    },

    mkdir(request, parent, name, { mode, umask }) {
      return make(request, parent, name, { mode: S_IFDIR | (mode & 0o7777), umask });
    },

    unlink(request, parent, name) {
      return vfs.client.unlink(request, parent as Fid, checkName(name), false);
    },

    rmdir(request, parent, name) {
      return vfs.client.unlink(request, parent as Fid, checkName(name), true);
    },

    rename(request, parent, name, newParent, newName, flags) {
      return vfs.client.rename(
        request,
        parent as Fid,
        checkName(name),
        newParent as Fid,
        checkName(newName),
        flags,
      );
    },

    link(request, nodeid, newParent, newName) {
      return entry(vfs.client.link(request, nodeid as Fid, newParent as Fid, checkName(newName)));
    },

    statfs(request) {
      return andThen(vfs.client.statfs(request), (answer) => ({ ...answer, nameMax: 255 }));
    },

    getxattr(request, nodeid, name) {
      return vfs.client.getxattr(request, nodeid as Fid, name);
    },

    setxattr(request, nodeid, name, value, flags, killSgid) {
      return vfs.client.setxattr(request, nodeid as Fid, name, Buffer.from(value), flags, killSgid);
    },

    listxattr(request, nodeid) {
      return vfs.client.listxattr(request, nodeid as Fid);
    },

    removexattr(request, nodeid, name) {
      return vfs.client.removexattr(request, nodeid as Fid, name);
    },
  };
}
