/** The options of `mount -o` and their defaults. docs/OPERATIONS.md has the table for users. */

import { MS_NOATIME, MS_NODEV, MS_NODIRATIME, MS_NOEXEC, MS_NOSUID, MS_RDONLY } from '../native/binding.js';
import { FsError } from '../src/base/errno.js';
import { parseMetricsAddress } from '../src/base/metrics_address.js';
import { parseSlowLimit } from '../src/base/slow_limit.js';
import { INTR_GRACE_MS } from '../src/fuse/dispatcher.js';
import type { Address, CertificateFiles } from '../src/runtime/ports.js';
import { OWN_OPTIONS } from './option_list.js';
import type { IntrMode } from './signals.js';

/** As the user says it: -o key=FILE; -o tls,cert=FILE,key=FILE,ca=FILE; -o tls=off; or nothing. */
export type Proofs =
  | { readonly by: 'default' }
  | { readonly by: 'key'; readonly path: string }
  | { readonly by: 'certificate'; readonly files: CertificateFiles }
  | { readonly by: 'nothing' };

export interface MountOptions {
  /** Limit of the client's caches: pages, and locks, attributes and names. Less than 16 MiB counts as 16 MiB. */
  readonly cacheBytes: number;
  readonly intr: IntrMode;
  /** How long a call waits for a server that is away before a caught signal may end it, in milliseconds. */
  readonly intrGraceMs: number;
  /** Keep trying if no server answers. */
  readonly retry: boolean;
  /** Each write returns when it is durable, as with O_DSYNC. */
  readonly sync: boolean;
  /** How long an unmount waits for a server that makes no progress, in milliseconds; undefined: without limit. */
  readonly umountTimeoutMs: number | undefined;
  /** Operations on names wait for the server, each one. */
  readonly syncMetadata: boolean;
  readonly driver: 'native' | 'fuse-native';
  readonly readOnly: boolean;
  /** Users other than the one who mounts may enter. */
  readonly allowOther: boolean;
  /** The client's name in the server's status; undefined: HOST:MOUNTPOINT. */
  readonly name: string | undefined;
  /** With what the client proves who it is. */
  readonly proofs: Proofs;
  /** So many deaths of client processes within a minute end a mount in the background. Fewer do not. */
  readonly deathsMax: number;
  /** There is a mount already: this one takes it over. */
  readonly takesOver: boolean;
  /** Where the client serves its metrics; undefined: nowhere. */
  readonly metrics: Address | undefined;
  /** The log has operations that take longer; undefined: it has none. */
  readonly slowMs: number | undefined;
  /** MS_* of mount(2), MS_RDONLY included. */
  readonly mountFlags: number;
}

const DEFAULT_CACHE_BYTES = 256 * 1024 * 1024;
const DEATHS_MAX = 3;
const TIMEOUT_MAX_S = 86_400;
const SMALLEST_CACHE_BYTES = 4 * 1024 * 1024;

/** The words that set and clear flags of mount(2). */
const FLAG_WORDS: Readonly<Record<string, { readonly flag: number; readonly set: boolean }>> = {
  ro: { flag: MS_RDONLY, set: true },
  rw: { flag: MS_RDONLY, set: false },
  nosuid: { flag: MS_NOSUID, set: true },
  suid: { flag: MS_NOSUID, set: false },
  nodev: { flag: MS_NODEV, set: true },
  dev: { flag: MS_NODEV, set: false },
  noexec: { flag: MS_NOEXEC, set: true },
  exec: { flag: MS_NOEXEC, set: false },
  noatime: { flag: MS_NOATIME, set: true },
  atime: { flag: MS_NOATIME, set: false },
  nodiratime: { flag: MS_NODIRATIME, set: true },
  diratime: { flag: MS_NODIRATIME, set: false },
};

/** The options that a remount can change. */
export const MOUNT_FLAG_WORDS: ReadonlySet<string> = new Set(Object.keys(FLAG_WORDS));

/**
 * Words that /etc/fstab may have for any filesystem, and on which we need not act: mount(8) acts on them, or we always
 * do what they ask for (docs/OPERATIONS.md). iversion: a change attribute for NFS servers, which cannot export us.
 */
const WITHOUT_EFFECT = new Set([
  ...['defaults', 'auto', 'noauto', 'nofail', '_netdev', 'user', 'users', 'nouser', 'owner', 'group'],
  ...['async', 'relatime', 'norelatime', 'strictatime', 'nostrictatime', 'lazytime', 'nolazytime'],
  ...['iversion', 'noiversion', 'silent', 'loud', 'mand', 'nomand'],
]);

/** Whether an option is for other programs: comment=..., x-systemd.automount, X-mount.mkdir. */
export function isForOthers(key: string): boolean {
  return WITHOUT_EFFECT.has(key) || key === 'comment' || /^x-/i.test(key);
}

const KNOWN = [...OWN_OPTIONS.map(({ word }) => word), ...Object.keys(FLAG_WORDS)];

function unknownOption(key: string): string {
  const words = [...KNOWN.map((word) => word.replace(/\[?=.*/, '')), ...WITHOUT_EFFECT];
  const nearest = words.reduce((best, word) =>
    editDistance(key, word) < editDistance(key, best) ? word : best,
  );
  const isTypo = editDistance(key, nearest) <= Math.max(1, key.length / 3);
  const hint = isTypo ? `did you mean ${nearest}? ` : '';
  return `unknown mount option ${JSON.stringify(key)}; ${hint}known are ${KNOWN.join(', ')}`;
}

/** Number of letters to insert, remove, replace or exchange with their neighbour to turn one text into the other. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, (before[j - 2] ?? 0) + 1);
      row.push(best);
    }
    before = last;
    last = row;
  }
  return last[b.length] ?? 0;
}

/**
 * @param text comma-separated words; later ones win.
 * @param root whether root mounts. Root mounts for all users, and may allow set-id programs and device files; other
 * users may not.
 * @throws FsError EINVAL, one line that names the word and the known ones.
 */
export function parseMountOptions(text: string, root: boolean): MountOptions {
  let cacheBytes = DEFAULT_CACHE_BYTES;
  let intr: IntrMode = 'fatal';
  let intrGraceMs = INTR_GRACE_MS;
  let retry = false;
  let sync = false;
  let syncMetadata = false;
  let umountTimeoutMs: number | undefined;
  let driver: MountOptions['driver'] = 'native';
  let allowOther = root;
  let takesOver = false;
  let deathsMax = DEATHS_MAX;
  let name: string | undefined;
  let metrics: Address | undefined;
  let slowMs: number | undefined;
  const files: { key?: string; cert?: string; ca?: string } = {};
  let tls: 'on' | 'off' | undefined;
  let mountFlags = root ? 0 : MS_NOSUID | MS_NODEV;
  for (const word of text.split(',').filter((part) => part !== '')) {
    const equals = word.indexOf('=');
    const key = equals < 0 ? word : word.slice(0, equals);
    const value = equals < 0 ? undefined : word.slice(equals + 1);
    const flag = Object.hasOwn(FLAG_WORDS, key) ? FLAG_WORDS[key] : undefined;
    if (flag !== undefined) {
      refuseValue(key, value);
      mountFlags = flag.set ? mountFlags | flag.flag : mountFlags & ~flag.flag;
      continue;
    }
    if (isForOthers(key)) continue;
    switch (key) {
      case 'cache':
        cacheBytes = parseSize(key, value);
        break;
      case 'intr':
        intr = oneOf(key, value, ['fatal', 'all']);
        break;
      case 'intr_grace':
        intrGraceMs = parseSeconds(key, value, true);
        break;
      case 'driver':
        driver = oneOf(key, value, ['native', 'fuse-native']);
        break;
      case 'deaths':
        deathsMax = parseNumber(key, value);
        break;
      case 'umount_timeout':
        umountTimeoutMs = parseSeconds(key, value);
        break;
      case 'retry':
      case 'sync':
      case 'sync-metadata':
      case 'allow_other':
      case 'noallow_other':
      case 'takeover':
        refuseValue(key, value);
        if (key === 'retry') retry = true;
        else if (key === 'takeover') takesOver = true;
        else if (key === 'sync') sync = true;
        else if (key === 'sync-metadata') syncMetadata = true;
        else allowOther = key === 'allow_other';
        break;
      case 'key':
      case 'cert':
      case 'ca':
        if (value === undefined || value === '')
          throw new FsError('EINVAL', `mount option ${key} names a file: ${key}=FILE`);
        files[key] = value;
        break;
      case 'tls':
        tls = value === undefined ? 'on' : oneOf(key, value, ['on', 'off'] as const);
        break;
      case 'metrics':
        metrics = parseMetrics(value);
        break;
      case 'slow':
        slowMs = parseSlow(value);
        break;
      case 'name':
        if (value === undefined || value === '' || value.length > 64) {
          throw new FsError('EINVAL', 'mount option name needs a value of 1 to 64 characters: name=NAME');
        }
        name = value;
        break;
      default:
        throw new FsError('EINVAL', unknownOption(key));
    }
  }
  const readOnly = (mountFlags & MS_RDONLY) !== 0;
  return {
    cacheBytes,
    intr,
    intrGraceMs,
    retry,
    sync,
    umountTimeoutMs,
    syncMetadata: syncMetadata || sync,
    driver,
    readOnly,
    allowOther,
    deathsMax,
    takesOver,
    metrics,
    slowMs,
    name,
    proofs: proofsOf(files, tls),
    mountFlags,
  };
}

function proofsOf(
  { key, cert, ca }: { readonly key?: string; readonly cert?: string; readonly ca?: string },
  tls: 'on' | 'off' | undefined,
): Proofs {
  if (tls === 'off') {
    if (key === undefined && cert === undefined && ca === undefined) return { by: 'nothing' };
    throw new FsError('EINVAL', 'mount option tls=off goes without a key: leave out key, cert and ca');
  }
  if (cert === undefined && ca === undefined)
    return key === undefined ? { by: 'default' } : { by: 'key', path: key };
  if (key === undefined || cert === undefined || ca === undefined) {
    throw new FsError(
      'EINVAL',
      'a mount with a certificate needs the options cert=FILE, key=FILE and ca=FILE',
    );
  }
  return { by: 'certificate', files: { certificate: cert, key, ca } };
}

function refuseValue(key: string, value: string | undefined): void {
  if (value !== undefined) throw new FsError('EINVAL', `mount option ${key} takes no value`);
}

function oneOf<T extends string>(key: string, value: string | undefined, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === value);
  if (found === undefined) {
    throw new FsError(
      'EINVAL',
      `mount option ${key} is ${choices.join(' or ')}, not ${JSON.stringify(value ?? '')}`,
    );
  }
  return found;
}

const UNIT_BYTES: Readonly<Record<string, number>> = {
  '': 1,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
};

function parseSeconds(key: string, value: string | undefined, mayBeZero = false): number {
  const seconds = /^\d+(\.\d+)?$/.test(value ?? '') ? Number(value) : Number.NaN;
  if (!((mayBeZero ? seconds >= 0 : seconds > 0) && seconds <= TIMEOUT_MAX_S)) {
    throw new FsError(
      'EINVAL',
      `mount option ${key} is a number of seconds, ${mayBeZero ? 'at least' : 'above'} 0 and at most ${TIMEOUT_MAX_S}, not ${JSON.stringify(value ?? '')}`,
    );
  }
  return Math.round(seconds * 1000);
}

function parseSlow(value = ''): number {
  const ms = parseSlowLimit(value);
  if (ms === undefined)
    throw new FsError('EINVAL', `mount option slow is a time like 200ms or 2s, not ${JSON.stringify(value)}`);
  return ms;
}

function parseMetrics(value = ''): Address {
  const address = parseMetricsAddress(value);
  if (address !== undefined) return address;
  throw new FsError(
    'EINVAL',
    `mount option metrics is HOST:PORT, PORT or unix:/PATH, not ${JSON.stringify(value)}`,
  );
}

function parseNumber(key: string, value: string | undefined): number {
  const number = /^\d{1,6}$/.test(value ?? '') ? Number(value) : 0;
  if (number < 1) {
    throw new FsError(
      'EINVAL',
      `mount option ${key} is a number from 1 to 999999, not ${JSON.stringify(value ?? '')}`,
    );
  }
  return number;
}

function parseSize(key: string, value: string | undefined): number {
  const match = /^(\d+)(?:([kmgt])(?:ib)?)?$/i.exec(value ?? '');
  const bytes =
    match === null ? Number.NaN : Number(match[1]) * (UNIT_BYTES[match[2]?.toLowerCase() ?? ''] ?? 1);
  if (!Number.isSafeInteger(bytes)) {
    throw new FsError(
      'EINVAL',
      `mount option ${key} is a size like 256m or 1g, not ${JSON.stringify(value ?? '')}`,
    );
  }
  if (bytes < SMALLEST_CACHE_BYTES) throw new FsError('EINVAL', `mount option ${key} must be at least 4m`);
  return bytes;
}
