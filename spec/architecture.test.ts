/** The order of the layers, read from the imports themselves. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const SRC = fileURLToPath(new URL('../src', import.meta.url));

/** Top to bottom; a file imports from its own folder and from those below it. `web` runs in a browser. */
const LAYERS = [
  'cli',
  'web',
  'server',
  'report',
  'campaign',
  'guard',
  'workload',
  'testbed',
  'inject',
  'recover',
  'detect',
  'xen',
  'layout',
  'machine',
  'x86',
  'common',
] as const;

/** Recovery sees a view and hands back a plan: whoever may touch the hardware is named here. */
const MAY_IMPORT_MACHINE = new Set(['cli', 'campaign', 'guard', 'testbed', 'inject', 'detect', 'machine']);

/** Built-in modules that reach processes and sockets, and the folders that may. */
const OUTSIDE = /^(node:)?(child_process|net|http|https|dgram|tls|cluster|worker_threads)$/;
const MAY_REACH_OUTSIDE = new Set(['cli', 'server', 'testbed', 'machine', 'campaign']);

interface Import {
  readonly file: string;
  readonly layer: string;
  readonly target: string;
  /** `import type`: gone at run time. */
  readonly typeOnly: boolean;
  /** Layer of a file of ours; `undefined` for packages and built-in modules. */
  readonly targetLayer: string | undefined;
}

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((file) => /\.tsx?$/.test(file));

const layerOf = (file: string): string => file.split('/')[0] ?? '';

/** Static and dynamic imports and re-exports; types count too, since they are what a layer knows of another. */
function importsOf(file: string): Import[] {
  const text = readFileSync(join(SRC, file), 'utf8');
  const found = [
    ...text.matchAll(/^\s*(import|export)\b([^'"`;]*?)\bfrom\s*['"]([^'"]+)['"]/gm),
    ...text.matchAll(/^\s*(import)(\s*)['"]([^'"]+)['"]/gm),
    ...text.matchAll(/\b(import)(\()\s*['"]([^'"]+)['"]/g),
  ];
  return found.map(([, , what = '', target = '']) => {
    const inside = target.startsWith('.') ? relative(SRC, resolve(SRC, dirname(file), target)) : undefined;
    const targetLayer = inside === undefined ? undefined : layerOf(inside);
    return { file, layer: layerOf(file), target, typeOnly: /^\s*type\b/.test(what), targetLayer };
  });
}

const imports = files.flatMap(importsOf);
const told = ({ file, target }: Import): string => `${file} imports ${target}`;

describe('layers', () => {
  it('reads the imports of all files', () => {
    expect(files.length).toBeGreaterThan(20);
    expect(imports.length).toBeGreaterThan(files.length);
  });

  it('has no folder outside the list', () => {
    expect([...new Set(files.map(layerOf))].filter((layer) => !(LAYERS as readonly string[]).includes(layer))).toEqual(
      [],
    );
  });

  it('imports only downwards', () => {
    const rank = (layer: string): number => (LAYERS as readonly string[]).indexOf(layer);
    const upwards = imports.filter(
      ({ layer, targetLayer }) => targetLayer !== undefined && rank(targetLayer) < rank(layer),
    );
    expect(upwards.map(told)).toEqual([]);
  });

  it('lets no file of src reach outside src', () => {
    expect(imports.filter(({ targetLayer }) => targetLayer === '..').map(told)).toEqual([]);
  });

  it('keeps recovery, Xen, reports and workloads away from the machine', () => {
    const reaching = imports.filter(
      ({ layer, targetLayer }) => targetLayer === 'machine' && !MAY_IMPORT_MACHINE.has(layer),
    );
    expect(reaching.map(told)).toEqual([]);
  });

  it('lets only the outer folders touch processes and sockets', () => {
    const reaching = imports.filter(({ layer, target }) => OUTSIDE.test(target) && !MAY_REACH_OUTSIDE.has(layer));
    expect(reaching.map(told)).toEqual([]);
  });

  it('writes relative imports with the suffix that Node needs', () => {
    const bare = imports.filter(({ target }) => target.startsWith('.') && !/\.(js|json)$/.test(target));
    expect(bare.map(told)).toEqual([]);
  });

  it('has no two files that import each other at run time, directly or around', () => {
    const graph = new Map(files.map((file) => [file, [] as string[]]));
    for (const { file, target, typeOnly } of imports) {
      if (typeOnly || !target.startsWith('.')) continue;
      graph.get(file)?.push(relative(SRC, resolve(SRC, dirname(file), target)).replace(/\.js$/, '.ts'));
    }
    expect(cycleIn(graph)).toBeUndefined();
  });
});

function cycleIn(graph: ReadonlyMap<string, readonly string[]>): string | undefined {
  const finished = new Set<string>();
  const visit = (file: string, path: readonly string[]): string | undefined => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file].join(' > ');
    if (finished.has(file)) return undefined;
    for (const next of graph.get(file) ?? []) {
      const cycle = visit(next, [...path, file]);
      if (cycle !== undefined) return cycle;
    }
    finished.add(file);
    return undefined;
  };
  for (const file of graph.keys()) {
    const cycle = visit(file, []);
    if (cycle !== undefined) return cycle;
  }
  return undefined;
}
