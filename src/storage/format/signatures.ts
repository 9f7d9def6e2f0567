/**
 * Recognizes what a device holds before mkfs formats it: signatures of data that people would be sorry to lose. Magic
 * numbers and their places are those of libblkid.
 */

/** knownSignature() looks at this many bytes from the start of a device. */
export const SIGNATURE_BYTES = 128 << 10;

interface Signature {
  readonly name: string;
  readonly offset: number;
  readonly magic: Buffer;
  /** A further check if the magic fits. */
  readonly confirm?: (start: Buffer) => boolean;
}

function text(name: string, offset: number, magic: string): Signature {
  return { name, offset, magic: Buffer.from(magic, 'latin1') };
}

const PAGE_SIZES = [4096, 8192, 16384, 65536] as const;
const LVM_SECTORS = [0, 1, 2, 3] as const;

const SIGNATURES: readonly Signature[] = [
  text('an XFS filesystem', 0, 'XFSB'),
  text('a Btrfs filesystem', 65_600, '_BHRfS_M'),
  ...PAGE_SIZES.flatMap((size) => [
    text('swap space', size - 10, 'SWAPSPACE2'),
    text('swap space', size - 10, 'SWAP-SPACE'),
  ]),
  ...LVM_SECTORS.map((sector) => text('an LVM physical volume', sector * 512, 'LABELONE')),
  text('a LUKS volume', 0, 'LUKS\xba\xbe'),
  text('a GPT partition table', 512, 'EFI PART'),
  text('a GPT partition table', 4096, 'EFI PART'),
  { name: 'a Linux RAID member', offset: 4096, magic: Buffer.from([0xfc, 0x4e, 0x2b, 0xa9]) },
  text('a SquashFS filesystem', 0, 'hsqs'),
  text('an NTFS filesystem', 3, 'NTFS    '),
  text('a FAT filesystem', 82, 'FAT32   '),
  text('a FAT filesystem', 54, 'FAT16   '),
  {
    // All three have the same magic; they differ in their feature bits.
    name: 'an ext2, ext3 or ext4 filesystem',
    offset: 1024 + 56,
    magic: Buffer.from([0x53, 0xef]),
    confirm: (start) => start.readUInt32LE(1024 + 24) <= 6,
  },
  { name: 'an MBR partition table', offset: 510, magic: Buffer.from([0x55, 0xaa]), confirm: hasPartition },
];

function hasPartition(start: Buffer): boolean {
  for (let entry = 446; entry < 510; entry += 16) {
    const status = start[entry] ?? 0;
    if ((status === 0 || status === 0x80) && start[entry + 4] !== 0 && start.readUInt32LE(entry + 12) > 0)
      return true;
  }
  return false;
}

/**
 * @param start the first SIGNATURE_BYTES of the device. @returns the name of what is there, with an article, or
 *   undefined.
 */
export function knownSignature(start: Buffer): string | undefined {
  return SIGNATURES.find(
    ({ offset, magic, confirm }) =>
      start.subarray(offset, offset + magic.length).equals(magic) && (confirm?.(start) ?? true),
  )?.name;
}
