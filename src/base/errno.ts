/**
 * Errnos and FsError. The numbers are Linux's (asm-generic/errno.h), on the wire too, whatever the host uses.
 *
 * An expected failure is an FsError. Any other throw is our bug: it is logged with its stack and answered EIO.
 */

export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EMLINK: 31,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOLCK: 37,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  EPROTO: 71,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
  ENOTCONN: 107,
  ESHUTDOWN: 108,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  ESTALE: 116,
  EDQUOT: 122,
  ECANCELED: 125,
} as const;

export type Errno = keyof typeof ERRNO;

const NAME_BY_NUMBER = new Map<number, Errno>(
  (Object.keys(ERRNO) as Errno[]).map((code) => [ERRNO[code], code]),
);

/** Name of a Linux errno number; EIO for one we do not know (a newer peer may send it). */
export function errnoName(number: number): Errno {
  return NAME_BY_NUMBER.get(number) ?? 'EIO';
}

/** The errno with this name; EIO for a name that we do not know (a newer release may have written it). */
export function errnoNamed(name: string): Errno {
  return Object.hasOwn(ERRNO, name) ? (name as Errno) : 'EIO';
}

export class FsError extends Error {
  override name = 'FsError';
  readonly code: Errno;
  constructor(code: Errno, message: string = code, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
  /** Positive Linux errno number. */
  get errno(): number {
    return ERRNO[this.code];
  }
}

/** The errno to answer for any thrown value: FsError's own, EIO for everything else (a bug, logged by the caller). */
export function errnoOf(thrown: unknown): number {
  return thrown instanceof FsError ? thrown.errno : ERRNO.EIO;
}
