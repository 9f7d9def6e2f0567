/**
 * The control socket of a running mount: a command asks in one JSON line, the client process answers in JSON lines.
 * `holdfast umount` and `holdfast status MOUNTPOINT` speak to the client process through it. They never use the mounted
 * filesystem itself, which may be blocked.
 *
 * The socket lies in the runtime folder; its name is a digest of the mount point's real path.
 */

import { createHash } from 'node:crypto';
import { existsSync, linkSync, lstatSync, mkdirSync, readlinkSync, renameSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { basename, dirname, join, resolve } from 'node:path';
import { FILESYSTEM_TYPE, mountAt } from '../../mount/mount_table.js';
import { type Errno, FsError } from '../base/errno.js';
import { CliError, describeFailure } from './failure.js';
import { runtimeDir } from './installed.js';

export type ControlRequest =
  | { readonly command: 'status' }
  | { readonly command: 'metrics' }
  | { readonly command: 'holdings'; readonly what: 'locks' | 'opens'; readonly limit: number }
  | { readonly command: 'umount'; readonly force: boolean }
  /**
   * The client process starts this program, which takes the mount over. program: its words, to which those for a mount are added.
   * options: mount options, if not those of now. patienceMs: how long calls may wait for the drain.
   */
  | {
      readonly command: 'takeover';
      readonly program: readonly string[];
      readonly options?: string | undefined;
      readonly patienceMs: number;
    };

export type ControlReply =
  | { readonly ok: true; readonly done: boolean; readonly data?: unknown }
  | { readonly ok: false; readonly done: true; readonly error: string; readonly code?: Errno };

/**
 * Absolute path of a mount point, as the table of mounts has it. It follows symbolic links, but looks at nothing in the mount
 * itself, because a blocked or dead mount must not block us.
 */
export function mountpointPath(path: string): string {
  const absolute = resolve(path);
  const parent = dirname(absolute);
  const named = parent === absolute ? absolute : join(realPath(parent), basename(absolute));
  return mountAt(named)?.type === FILESYSTEM_TYPE ? named : realPath(named);
}

/** realpath without stat: reads symbolic links only. */
function realPath(path: string): string {
  let resolved = '/';
  let rest = path.split('/').filter((part) => part !== '');
  for (let hops = 0; rest.length > 0; ) {
    const [part = '', ...others] = rest;
    const candidate = join(resolved, part);
    const target = symlinkTarget(candidate);
    if (target === undefined) {
      resolved = candidate;
      rest = others;
      continue;
    }
    hops += 1;
    if (hops > 40) throw new CliError(`${path}: too many symbolic links`);
    if (target.startsWith('/')) resolved = '/';
    rest = [...target.split('/').filter((step) => step !== '' && step !== '.'), ...others];
  }
  return resolved;
}

function symlinkTarget(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    // Not a symbolic link, or not there: the caller finds out which.
    return undefined;
  }
}

export function controlPath(mountpoint: string): string {
  const digest = createHash('sha256').update(mountpoint).digest('hex').slice(0, 24);
  return join(runtimeDir(), 'mounts', `${digest}.sock`);
}

const LOG_NAME_MAX = 200;

/** Log of a mount in the background. Its name is the mount point as systemd writes it ("/" is "-", the rest escaped). */
export function mountLogPath(mountpoint: string): string {
  const escaped = mountpoint
    .replace(/^\/+/, '')
    .replace(/[^A-Za-z0-9:_./]/g, (char) =>
      [...Buffer.from(char)].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join(''),
    )
    .replaceAll('/', '-');
  // If the mount point does not fit a file name, the socket's digest makes the name unique.
  const isShort = escaped.length <= LOG_NAME_MAX;
  const name = isShort
    ? escaped
    : `${escaped.slice(0, LOG_NAME_MAX)}-${basename(controlPath(mountpoint), '.sock')}`;
  return join(runtimeDir(), 'mounts', `${name === '' ? '-' : name}.log`);
}

export interface ControlServer {
  /**
   * @param hasSuccessor another process serves the mount, and puts its own socket into the place: then nothing is removed there. A look
   *   whose socket it is would not do, because the successor's may come between the look and the removal.
   */
  close(end: { readonly hasSuccessor: boolean }): void;
}

/** Removes the name if it is still of this socket. @param aside a name that nobody else uses. */
function removeOwn(path: string, ino: number, aside: string): void {
  if (lstatSync(path, { throwIfNoEntry: false })?.ino !== ino) return;
  // By rename, because another one may have come since the look: that one goes back.
  renameSync(path, aside);
  if (lstatSync(aside).ino !== ino) {
    try {
      linkSync(aside, path);
    } catch (thrown) {
      // A third one is there by now.
      if ((thrown as NodeJS.ErrnoException).code !== 'EEXIST') throw thrown;
    }
  }
  rmSync(aside);
}

/**
 * Serves control requests until the caller closes it.
 * @param handle may report progress several times; its result is the last line of the answer.
 */
export async function serveControl(
  mountpoint: string,
  handle: (request: ControlRequest, progress: (data: unknown) => void) => Promise<unknown>,
): Promise<ControlServer> {
  const path = controlPath(mountpoint);
  // Binds a name of its own, because closing the socket unlinks the bound name. A client whose mount is detached may end after
  // the next client has mounted at the same place, and must not remove the next client's socket.
  const bound = `${path}.${process.pid}`;
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  rmSync(bound, { force: true });
  const server: Server = createServer((socket) => {
    readLines(socket, (line) => {
      void answer(socket, line, handle);
    });
  });
  return new Promise((done, failed) => {
    server.once('error', failed);
    server.listen(bound, () => {
      const { ino } = lstatSync(bound);
      renameSync(bound, path);
      done({
        close: ({ hasSuccessor }) => {
          server.close();
          if (!hasSuccessor) removeOwn(path, ino, `${bound}.end`);
        },
      });
    });
  });
}

async function answer(
  socket: Socket,
  line: string,
  handle: (request: ControlRequest, progress: (data: unknown) => void) => Promise<unknown>,
): Promise<void> {
  const send = (reply: ControlReply): void => {
    if (!socket.destroyed) socket.write(`${JSON.stringify(reply)}\n`);
  };
  try {
    const request = JSON.parse(line) as ControlRequest;
    const data = await handle(request, (progress) => send({ ok: true, done: false, data: progress }));
    send({ ok: true, done: true, data });
  } catch (thrown) {
    const code = thrown instanceof FsError ? { code: thrown.code } : {};
    send({ ok: false, done: true, error: describeFailure(thrown).line, ...code });
  }
  socket.end();
}

function readLines(socket: Socket, online: (line: string) => void): void {
  let pending = '';
  socket.setEncoding('utf8');
  // The peer may vanish at any time; then nobody is left who could get the error.
  socket.on('error', () => socket.destroy());
  socket.on('data', (chunk: string) => {
    pending += chunk;
    for (let end = pending.indexOf('\n'); end >= 0; end = pending.indexOf('\n')) {
      online(pending.slice(0, end));
      pending = pending.slice(end + 1);
    }
    if (pending.length > 65_536) socket.destroy();
  });
}

/**
 * @param what a mount point as the user has named it.
 * @param otherwise what is wrong with it if it has never been a mount.
 * @returns the failure of a command that found no client process for it.
 */
export function nobodyServes(
  what: string,
  otherwise = 'is neither a filesystem that this host serves, nor HOST:PORT, nor a mount point that a Holdfast client serves',
): CliError {
  const mountpoint = mountpointPath(what);
  const log = mountLogPath(mountpoint);
  const why = existsSync(log) ? `; the log of its last client is ${log}` : '';
  if (mountAt(mountpoint)?.type === FILESYSTEM_TYPE) {
    return new CliError(
      `no client process answers for ${what}: if that lasts, holdfast umount ${what}, and mount it again${why}`,
    );
  }
  return new CliError(why === '' ? `${what} ${otherwise}` : `${what} is not mounted${why}`);
}

/** The client process answers from its memory: if it does not, it is stopped, or busy beyond measure. */
const STATUS_LIMIT_MS = 10_000;

/**
 * Asks the client process of a mount.
 * @returns undefined if no process serves this mount point (any more).
 * @throws FsError, CliError with the error that the process answered.
 */
export function askControl(
  mountpoint: string,
  request: ControlRequest,
  progress?: (data: unknown) => void,
): Promise<{ readonly data: unknown } | undefined> {
  const path = controlPath(mountpoint);
  if (!existsSync(path)) return Promise.resolve(undefined);
  return new Promise((done, failed) => {
    const socket = createConnection(path);
    let answered = false;
    const late = setTimeout(() => {
      answered = true;
      failed(
        new CliError(
          `the client process of ${mountpoint} has not answered for ${STATUS_LIMIT_MS / 1000} s: is it stopped?`,
        ),
      );
      socket.destroy();
    }, STATUS_LIMIT_MS);
    if (request.command !== 'status') clearTimeout(late);
    socket.once('close', () => clearTimeout(late));
    socket.once('error', (cause: NodeJS.ErrnoException) => {
      if (cause.code === 'ECONNREFUSED' || cause.code === 'ENOENT') done(undefined);
      else failed(cause);
    });
    socket.once('connect', () => socket.write(`${JSON.stringify(request)}\n`));
    readLines(socket, (line) => {
      const reply = JSON.parse(line) as ControlReply;
      if (!reply.done) {
        if (reply.ok) progress?.(reply.data);
        return;
      }
      answered = true;
      if (reply.ok) done({ data: reply.data });
      else
        failed(reply.code === undefined ? new CliError(reply.error) : new FsError(reply.code, reply.error));
    });
    socket.once('close', () => {
      if (!answered) failed(new CliError(`the client process of ${mountpoint} ended before it answered`));
    });
  });
}
