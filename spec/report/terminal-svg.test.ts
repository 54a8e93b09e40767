import { describe, expect, it } from 'vitest';
import { terminalSvg } from '../../src/report/terminal-svg.js';
import { timeline } from '../../src/report/timeline.js';
import { story } from './story.fixture.js';

describe('terminalSvg', () => {
  it('places coloured spans by column and escapes what XML would take for itself', () => {
    const svg = terminalSvg('a <b> & "c"\n\x1b[32m\x1b[1mok\x1b[22m\x1b[39m  \x1b[2mdim\x1b[22m', { title: 'a run' });
    expect(svg).toContain('>a &lt;b&gt; &amp; &quot;c&quot;</text>');
    expect(svg).toMatch(/class="t green b" x="18\.0"[^>]*>ok</);
    expect(svg).toMatch(/class="t d" x="51\.6"[^>]*>dim</);
    expect(svg).toContain('<title>a run</title>');
  });

  it('goes on with a colour on the next line, and ends it at a reset', () => {
    const svg = terminalSvg('\x1b[31mone\ntwo\x1b[0m three', { title: 't' });
    expect(svg).toMatch(/class="t red"[^>]*>two</);
    expect(svg).toMatch(/class="t"[^>]*>three</);
  });

  it('is wide and high enough for a whole timeline, in both colour schemes, without anything from outside', () => {
    const lines = timeline(story, { width: 100, colors: 'color' });
    const svg = terminalSvg(lines.join('\n'), { title: 'a run', command: './demo' });
    const [, width = 0, height = 0] = (/width="(\d+)" height="(\d+)"/.exec(svg) ?? []).map(Number);
    const right = Math.max(
      ...[...svg.matchAll(/x="([\d.]+)" y="[\d.]+" textLength="([\d.]+)"/g)].map(
        (match) => Number(match[1]) + Number(match[2]),
      ),
    );
    const bottom = Math.max(...[...svg.matchAll(/<text[^>]* y="([\d.]+)"/g)].map((match) => Number(match[1])));
    expect(right).toBeLessThanOrEqual(width);
    expect(bottom).toBeLessThan(height);
    expect(svg).toContain('$ ./demo');
    expect(svg).toContain('prefers-color-scheme:dark');
    expect(svg).not.toMatch(/href|url\(/);
  });
});
