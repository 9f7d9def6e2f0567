/**
 * Connections through a Unix socket that has a path.
 *
 * - Only its owner and root may connect: the socket has mode 0600 from its first moment (the addon sees to that).
 * - A socket whose listener is gone stays in the filesystem. A new listener removes it: nobody answers there. If two listeners
 *   begin at once, both may remove it; each makes sure that it removes the one it has tried.
 * - A listener that closes removes its socket, but not that of another which has taken the path meanwhile.
 * - A client wants a listener of root or of its own user: another user may own the folder.
 */

import { closeSync, lstatSync, unlinkSync } from 'node:fs';
import type { NativeBinding } from '../../native/binding.js';
import { type Errno, FsError } from '../base/errno.js';
import { StreamConnection } from './node_stream.js';
import { isTrusted, listenAt } from './node_unix.js';
import type { Connection, ConnectionEvents, Listener } from './ports.js';

/** Of sockaddr_un, without the zero byte at its end. */
const PATH_MAX_BYTES = 107;

function needed(binding: NativeBinding | undefined): NativeBinding {
  if (binding !== undefined) return binding;
  throw new FsError('EOPNOTSUPP', 'Unix sockets need the native addon: run "npm rebuild"');
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? '';
}

/** Tells apart the files that have this path in turn. @returns undefined if there is none. */
function stampOf(path: string): string | undefined {
  const found = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return found === undefined ? undefined : `${found.dev} ${found.ino} ${found.ctimeNs}`;
}

function checkLength(path: string): void {
  const lengthBytes = Buffer.byteLength(path);
  if (lengthBytes <= PATH_MAX_BYTES) return;
  throw new FsError(
    'EINVAL',
    `the path of a Unix socket has at most ${PATH_MAX_BYTES} bytes, and this has ${lengthBytes}: ${path}`,
  );
}

const LISTEN_ERRNO: Readonly<Record<string, readonly [Errno, string]>> = {
  ENOENT: ['EINVAL', 'its folder is not there'],
  ENOTDIR: ['EINVAL', 'its folder is not there'],
  EROFS: ['EINVAL', 'its folder cannot be written to'],
  EACCES: ['EACCES', 'its folder may not be written to by this user'],
  EPERM: ['EACCES', 'its folder may not be written to by this user'],
};

function listenError(path: string, error: unknown): FsError {
  const code = codeOf(error);
  const [errno, why] = LISTEN_ERRNO[code] ?? ['EIO', error instanceof Error ? error.message : String(error)];
  return new FsError(errno, `cannot listen at ${path}: ${why}`, { cause: error });
}

/** Removes a socket at which nobody listens. @throws FsError EBUSY if it is anything else. */
function removeStale(binding: NativeBinding, path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket())
    throw new FsError('EBUSY', `cannot listen at ${path}: there is a file, and it is no socket`);
  const tried = stampOf(path);
  try {
    closeSync(binding.unixConnect(path));
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    if (codeOf(error) === 'ECONNREFUSED') {
      if (stampOf(path) === tried) unlinkSync(path);
      return;
    }
    // EAGAIN: somebody listens, and does not accept. EACCES: it is another user's.
    if (!['EAGAIN', 'EACCES'].includes(codeOf(error))) throw listenError(path, error);
  }
  throw inUse(path);
}

function inUse(path: string): FsError {
  return new FsError('EBUSY', `cannot listen at ${path}: another process does`);
}

function bind(binding: NativeBinding, path: string, backlog: number): number {
  try {
    return binding.unixListen(path, backlog);
  } catch (error) {
    if (codeOf(error) !== 'EADDRINUSE') throw listenError(path, error);
  }
  removeStale(binding, path);
  try {
    return binding.unixListen(path, backlog);
  } catch (error) {
    if (codeOf(error) !== 'EADDRINUSE') throw listenError(path, error);
    throw inUse(path);
  }
}

/** As Transport.listen. */
export function listenPath(
  addon: NativeBinding | undefined,
  path: string,
  accept: (connection: Connection) => ConnectionEvents,
): Listener {
  const binding = needed(addon);
  checkLength(path);
  const stop = listenAt(binding, path, (backlog) => bind(binding, path, backlog), accept);
  const own = stampOf(path);
  return {
    address: { host: path, port: 0 },
    close: async () => {
      stop();
      if (own === undefined || stampOf(path) !== own) return;
      try {
        unlinkSync(path);
      } catch (error) {
        if (codeOf(error) !== 'ENOENT') throw listenError(path, error);
      }
    },
  };
}

const CONNECT_ERRNO: Readonly<Record<string, readonly [Errno, string]>> = {
  ECONNREFUSED: ['ECONNREFUSED', 'nothing listens at'],
  ENOENT: ['ECONNREFUSED', 'nothing listens at'],
  ENOTDIR: ['ECONNREFUSED', 'nothing listens at'],
  EAGAIN: ['ECONNREFUSED', 'too many connections wait at'],
  EACCES: ['EACCES', 'this user may not connect to'],
};

/** As Transport.connect, and it never waits. */
export function connectPath(addon: NativeBinding | undefined, path: string): StreamConnection {
  const binding = needed(addon);
  checkLength(path);
  let fd: number;
  try {
    fd = binding.unixConnect(path);
  } catch (error) {
    const [errno, text] = CONNECT_ERRNO[codeOf(error)] ?? ['EIO', `${(error as Error).message}:`];
    throw new FsError(errno, `${text} ${path}`, { cause: error });
  }
  try {
    const { uid } = binding.unixPeer(fd);
    if (!isTrusted(uid)) {
      throw new FsError(
        'EACCES',
        `user ${uid} listens at ${path}, who is neither root nor the user of this process`,
      );
    }
    const proof = { kind: 'local', uid, trusted: true } as const;
    return new StreamConnection(binding, fd, `unix:${path}`, { proof, port: 0, sameHost: true });
  } finally {
    closeSync(fd);
  }
}
