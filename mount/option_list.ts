/** The words of `mount -o` with what they mean: for the error that names them, the man page and the completions of the shells. */

export interface MountOptionInfo {
  /** As a user writes it, with the name of its value: `cache=SIZE`. */
  readonly word: string;
  readonly help: string;
}

export interface WordParts {
  readonly name: string;
  /** As written: SIZE, FILE, on|off. Undefined: it takes none. */
  readonly value: string | undefined;
  /** The name alone is enough. */
  readonly isOptional: boolean;
}

/** @param word as in MountOptionInfo: `retry`, `cache=SIZE`, `tls[=on|off]`. */
export function wordParts(word: string): WordParts {
  const [, name = word, bracket, value] = /^([\w-]+)(\[)?(?:=([^\]]+)\]?)?$/.exec(word) ?? [];
  return { name, value, isOptional: bracket !== undefined };
}

/** The words that are Holdfast's own. mount/options.ts reads them. */
export const OWN_OPTIONS: readonly MountOptionInfo[] = [
  {
    word: 'cache=SIZE',
    help: "limit of the client's caches: pages, and locks, attributes and names (default 256m; k, m, g, t)",
  },
  {
    word: 'intr=fatal|all',
    help: 'which signals end a call that waits: those that kill the process (and, while the server is away, caught INT, TERM, QUIT and HUP), or any (default fatal)',
  },
  {
    word: 'intr_grace=SECONDS',
    help: 'how long a call waits for a server that is away before a caught signal may end it (default 1)',
  },
  { word: 'retry', help: 'keep trying if no server answers, instead of giving up after 10 s' },
  {
    word: 'umount_timeout=SECONDS',
    help: 'how long an unmount waits for a server that does nothing before it gives up what is not written (default: without limit)',
  },
  {
    word: 'driver=native|fuse-native',
    help: 'interface to the kernel; fuse-native needs libfuse2 and fuse3 (default native)',
  },
  {
    word: 'allow_other',
    help: 'users other than the one who mounts may enter (default if root mounts)',
  },
  {
    word: 'noallow_other',
    help: 'only the user who mounts may enter (default if another user than root mounts)',
  },
  { word: 'name=NAME', help: "the client's name in the server's status (default HOST:MOUNTPOINT)" },
  { word: 'key=FILE', help: 'key file of this client, or the private key of its certificate' },
  { word: 'cert=FILE', help: 'certificate of this client (PEM); it needs key and ca too' },
  { word: 'ca=FILE', help: 'certificates of the CAs that sign servers' },
  {
    word: 'tls[=on|off]',
    help: 'off: connect without a key and without encryption, to a server that takes such clients',
  },
  {
    word: 'sync',
    help: "each write returns when its data is on the server's devices, as with O_DSYNC; brings sync-metadata too",
  },
  {
    word: 'sync-metadata',
    help: 'each operation on names and attributes waits for the server',
  },
  {
    word: 'metrics=ADDRESS',
    help: 'serve Prometheus metrics over HTTP at HOST:PORT, PORT (loopback) or unix:/PATH (default: nowhere; holdfast metrics MOUNTPOINT prints them)',
  },
  {
    word: 'slow=TIME',
    help: 'log each operation that takes longer, and what it waited for; for example 200ms, 2s (default: none)',
  },
  { word: 'takeover', help: 'there is a mount already: a process with these options takes it over' },
  {
    word: 'deaths=NUMBER',
    help: 'so many deaths of the client process within a minute end a mount in the background (default 3)',
  },
];

/** Those of any filesystem on which we act. */
export const FLAG_OPTIONS: readonly MountOptionInfo[] = [
  { word: 'ro', help: 'read only' },
  { word: 'rw', help: 'read and write' },
  { word: 'nosuid', help: 'set-id bits have no effect' },
  { word: 'suid', help: 'set-id bits have effect' },
  { word: 'nodev', help: 'device files cannot be opened' },
  { word: 'dev', help: 'device files can be opened' },
  { word: 'noexec', help: 'programs cannot be executed' },
  { word: 'exec', help: 'programs can be executed' },
  { word: 'noatime', help: 'reading changes no access times' },
  { word: 'atime', help: 'reading changes access times' },
  { word: 'nodiratime', help: 'reading directories changes no access times' },
  { word: 'diratime', help: 'reading directories changes access times' },
];
