/**
 * The man pages holdfast(8) and mount.holdfast(8), in man(7): commands, arguments and options from the tree of commands, mount
 * options from mount/option_list.ts. What no command line has (exit status, files, environment, examples) is text here.
 */

import type { MountOptionInfo } from '../../mount/option_list.js';
import type { ArgumentInfo, CommandInfo, OptionInfo } from './command_tree.js';

type Pair = readonly [term: string, text: string];

const EXIT_STATUS: readonly Pair[] = [
  ['0', 'Done.'],
  ['1', 'Failed. One line on standard error says why, and what to do.'],
  ['2', 'The command line is wrong.'],
  ['3', 'shutdown: the target is clean, and the server evicted clients that had not drained.'],
  [
    'fsck',
    'As fsck(8), as a sum: 0 clean, 1 errors were repaired, 4 errors are left, 8 it could not check, 16 the command line is wrong.',
  ],
];

const MOUNT_EXIT_STATUS: readonly Pair[] = [
  ['0', 'Mounted, and usable.'],
  ['1', 'The command line is wrong.'],
  ['32', 'The mount failed. One line on standard error says why.'],
];

const FILES: readonly Pair[] = [
  ['/opt/holdfast', 'Link to the folder of the version that is in use, if packages are installed.'],
  ['/opt/holdfast-VERSION', 'A version: programs, its own Node, documentation.'],
  [
    '/etc/holdfast/LABEL.key',
    'Key of this host for the filesystem of that label; NAME.conf is read by the units.',
  ],
  [
    '/run/holdfast',
    'Sockets of servers and mounts of this host, for the commands; logs of mounts in the background.',
  ],
  [
    '/var/log/holdfast-NAME.log',
    'Log of a server that Pacemaker runs. A server under systemd has its log in the journal.',
  ],
];

const MOUNT_FILES: readonly Pair[] = [
  ['/etc/fstab', 'May name the filesystem with the type holdfast.'],
  [
    '/etc/holdfast',
    'Keys of this host: the one of the filesystem is used unless the option key names another.',
  ],
];

const ENVIRONMENT: readonly Pair[] = [
  [
    'HOLDFAST_RUNTIME_DIR',
    'Folder for sockets and logs, instead of /run/holdfast (other users than root: $XDG_RUNTIME_DIR/holdfast-UID).',
  ],
  ['HOLDFAST_KEY_DIR', 'Folder with the keys of this host, instead of /etc/holdfast.'],
  [
    'HOLDFAST_CORE',
    '1: processes may leave core files, and a debugger may attach. They can have keys in them.',
  ],
  ['DEBUG', 'holdfast:* logs what goes on inside, for developers.'],
];

const EXAMPLES: readonly Pair[] = [
  ['holdfast mkfs --meta /dev/nvme0n1p1 --data /dev/sdb --label home', 'Makes a filesystem.'],
  [
    'holdfast serve --meta /dev/nvme0n1p1 --data /dev/sdb --listen 0.0.0.0:7988',
    'Serves it; over the network to those who have a key.',
  ],
  ['holdfast access add web1 --output web1.key', 'Makes a key for one more client.'],
  ['holdfast mount home /mnt/home', "Mounts it on the server's own host."],
  [
    'holdfast serve --meta /dev/nvme0n1p1 --data /dev/sdb --standby & holdfast shutdown home',
    'Upgrades the server: this version stands by, and takes over as soon as the old one has shut down.',
  ],
];

const MOUNT_EXAMPLES: readonly Pair[] = [
  [
    'mount -t holdfast -o key=/etc/holdfast/home.key server:7988 /mnt/home',
    'Mounts a filesystem of another host.',
  ],
  [
    'a:7988,b:7988  /mnt/home  holdfast  _netdev,nofail,retry,cache=1g  0  0',
    'Mounts, as a line of /etc/fstab, what one of two servers serves.',
  ],
  ['mount -o remount,ro /mnt/home', 'Makes the mount read-only.'],
];

/** holdfast(8). */
export function holdfastPage(
  tree: CommandInfo,
  mountOptions: readonly MountOptionInfo[],
  version: string,
): string {
  return page('HOLDFAST', version, [
    ['NAME', [`holdfast \\- ${plain(lowerFirst(tree.help))}`]],
    [
      'SYNOPSIS',
      tree.commands.flatMap((one) =>
        one.commands.length > 0
          ? one.commands.map((below) => synopsis(`holdfast ${one.name} ${below.name}`, below))
          : [synopsis(`holdfast ${one.name}`, one)],
      ),
    ],
    [
      'DESCRIPTION',
      [
        plain(
          'Holdfast is a filesystem for groups of machines that share files. A server has its two devices, metadata and data; clients ' +
            'mount it through FUSE. Servers are upgraded, restarted and failed over while programs go on: they see a pause, and no error.',
        ),
      ],
    ],
    ['COMMANDS', tree.commands.flatMap((one) => commandLines(one, ''))],
    [
      'MOUNT OPTIONS',
      [plain('The words of mount \\-o, separated by commas.'), ...mountOptionLines(mountOptions)],
    ],
    ['EXIT STATUS', pairs(EXIT_STATUS)],
    ['FILES', pairs(FILES)],
    ['ENVIRONMENT', pairs(ENVIRONMENT)],
    ['EXAMPLES', pairs(EXAMPLES)],
    [
      'SEE ALSO',
      [
        '\\fBmount.holdfast\\fR(8), \\fBmount\\fR(8), \\fBumount\\fR(8), \\fBfsck\\fR(8), \\fBfuse\\fR(4)',
        '.P',
        plain(
          'The folder docs of the installed version: INSTALL.md, OPERATIONS.md and TRUST.md for operators.',
        ),
      ],
    ],
  ]);
}

/** mount.holdfast(8). */
export function mountPage(
  helper: CommandInfo,
  mountOptions: readonly MountOptionInfo[],
  version: string,
): string {
  return page('MOUNT.HOLDFAST', version, [
    ['NAME', ['mount.holdfast \\- mount a Holdfast filesystem']],
    [
      'SYNOPSIS',
      [
        '\\fBmount \\-t holdfast\\fR [\\fB\\-o\\fR \\fIoptions\\fR] \\fIsource\\fR \\fImountpoint\\fR',
        '.br',
        synopsis('mount.holdfast', { ...helper, usage: '<source> <mountpoint> [options]' }).replace(
          /^\.br\n/,
          '',
        ),
      ],
    ],
    [
      'DESCRIPTION',
      [
        plain(
          'mount(8) runs this program for the type holdfast, also for lines of /etc/fstab. It returns when the mount is usable; the process that serves it stays in the background. umount(8) returns when everything that was written is on the server.',
        ),
        ...helper.arguments.filter(({ help }) => help !== '').flatMap(argumentLines),
      ],
    ],
    ['OPTIONS', helper.options.flatMap(optionLines)],
    [
      'MOUNT OPTIONS',
      [
        ...mountOptionLines(mountOptions),
        '.P',
        plain(
          'Words that /etc/fstab may have for any filesystem (defaults, nofail, _netdev, x\\-systemd.automount and so on) are accepted; an unknown word is an error.',
        ),
      ],
    ],
    ['EXIT STATUS', pairs(MOUNT_EXIT_STATUS)],
    ['FILES', pairs(MOUNT_FILES)],
    ['ENVIRONMENT', pairs(ENVIRONMENT)],
    ['EXAMPLES', pairs(MOUNT_EXAMPLES)],
    ['SEE ALSO', ['\\fBholdfast\\fR(8), \\fBmount\\fR(8), \\fBfstab\\fR(5)']],
  ]);
}

function page(
  name: string,
  version: string,
  sections: readonly (readonly [string, readonly string[]])[],
): string {
  // No date: the same commands make the same page, whenever they are built.
  const head = `.TH ${name} 8 "" "Holdfast ${version}" "System Administration"\n.nh\n.ad l`;
  return `${[head, ...sections.map(([title, lines]) => `.SH ${title}\n${lines.join('\n')}`)].join('\n')}\n`;
}

/** All of a command, and of those below it. */
function commandLines(info: CommandInfo, before: string): string[] {
  const name = `${before}${info.name}`;
  const heading = `\\fB${plain(name)}\\fR ${plain(info.commands.length > 0 ? '' : info.usage)}`.trimEnd();
  return [
    `.SS ${quotedArgument(heading)}`,
    `${plain(upperFirst(info.help))}.`,
    ...info.arguments.filter(({ help }) => help !== '').flatMap(argumentLines),
    ...info.options.filter(({ names }) => !names.includes('--help')).flatMap(optionLines),
    ...info.commands.flatMap((one) => commandLines(one, `${name} `)),
  ];
}

function synopsis(name: string, info: CommandInfo): string {
  return `.br\n\\fB${plain(name)}\\fR ${plain(info.usage)}`.trimEnd();
}

function argumentLines({ name, help }: ArgumentInfo): string[] {
  return ['.TP', `\\fI${plain(name)}\\fR`, plain(upperFirst(help))];
}

function optionLines({ flags, help }: OptionInfo): string[] {
  const shown = flags.replace(/ ([<[][^>\]]+[>\]])/, (_, value: string) => `\u0000${value.slice(1, -1)}`);
  const [names = '', value] = shown.split('\u0000');
  return [
    '.TP',
    `\\fB${plain(names)}\\fR${value === undefined ? '' : ` \\fI${plain(value)}\\fR`}`,
    plain(upperFirst(help)),
  ];
}

function mountOptionLines(options: readonly MountOptionInfo[]): string[] {
  return options.flatMap(({ word, help }) => ['.TP', `\\fB${plain(word)}\\fR`, plain(upperFirst(help))]);
}

function pairs(list: readonly Pair[]): string[] {
  return list.flatMap(([term, text]) => ['.TP', `\\fB${plain(term)}\\fR`, plain(text)]);
}

/** Text as roff prints it: backslashes, hyphens that are typed, and no line that begins as a request. */
function plain(text: string): string {
  return text
    .replace(/\\(?!-)/g, '\\e')
    .replace(/(?<![\w\\])-(?=[-\w])/g, '\\-')
    .replace(/\\--/g, '\\-\\-')
    .replace(/^(?=[.'])/, '\\&');
}

function quotedArgument(text: string): string {
  return `"${text.replaceAll('"', '\\(dq')}"`;
}

function upperFirst(text: string): string {
  // A name or a word of a command line stays as it is.
  return /^[a-z][a-z-]*(?:[ ,:;]|$)/.test(text) ? text.charAt(0).toUpperCase() + text.slice(1) : text;
}

function lowerFirst(text: string): string {
  return text.replace(/^A /, 'a ').replace(/\.$/, '');
}
