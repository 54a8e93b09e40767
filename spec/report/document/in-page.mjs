/** What is asked of the page, in the page: JavaScript, since types of a browser's world are not among ours. */

export const widths = () => [document.documentElement.scrollWidth, document.documentElement.clientWidth];

export const paper = () => ({
  ground: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
  wide: document.querySelectorAll('figure .wide').length,
  shown: [...document.querySelectorAll('figure .wide')].filter((one) => one.offsetWidth > 0).length,
  filter: document.querySelector('.filter').offsetHeight,
});

/** Whether a run and the group that it is in are unfolded, and it has a height. */
export const opened = (id) => {
  const run = document.getElementById(id);
  return [run.open, run.parentElement.open, run.offsetHeight > 0];
};

export const shownRuns = () => ({
  told: document.querySelector('.filter output').textContent,
  shown: [...document.querySelectorAll('.run:not([hidden])')].map((run) => run.textContent),
});

export const named = () => ({
  charts: [...document.querySelectorAll('svg.chart')].every((svg) =>
    (svg.getAttribute('aria-labelledby') ?? '')
      .split(' ')
      .every((id) => (document.getElementById(id)?.textContent ?? '') !== ''),
  ),
  tables: [...document.querySelectorAll('table')].every((table) => (table.getAttribute('aria-label') ?? '') !== ''),
});

/** Labels of each visible chart that touch another label or leave the picture. */
export function overlaps() {
  const problems = [];
  let labels = 0;
  for (const svg of document.querySelectorAll('svg.chart')) {
    const frame = svg.getBoundingClientRect();
    if (frame.width === 0) continue;
    const texts = [...svg.querySelectorAll('text')].map((node) => ({
      text: node.textContent ?? '',
      box: node.getBoundingClientRect(),
    }));
    labels += texts.length;
    for (const [index, { text, box }] of texts.entries()) {
      if (
        box.left < frame.left - 1 ||
        box.right > frame.right + 1 ||
        box.bottom > frame.bottom + 1 ||
        box.top < frame.top - 1
      )
        problems.push(`"${text}" leaves its chart`);
      for (const other of texts.slice(index + 1)) {
        const wide = Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left);
        // Boxes have the height of a line; letters are lower, so neighbours in adjacent rows may share a little.
        const high = Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top);
        if (wide > 1 && high > 4) problems.push(`"${text}" and "${other.text}" lie over each other`);
      }
    }
  }
  return { labels, problems };
}

/** Text of the page itself with a contrast below 4.5 to 1 (WCAG 2.1, 1.4.3). */
export function weakText() {
  const channels = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = (colour) => {
    const [r = 0, g = 0, b = 0] = channels(colour).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const groundOf = (start) => {
    for (let at = start; at !== null; at = at.parentElement) {
      const ground = getComputedStyle(at).backgroundColor;
      if ((channels(ground)[3] ?? 1) > 0.99) return ground;
    }
    return 'rgb(255, 255, 255)';
  };
  const weak = new Set();
  for (const node of document.querySelectorAll(
    'p, h1, h2, h3, th, td, a, li, summary, figcaption, code, svg.chart text:not(.in-bar)',
  )) {
    if ((node.textContent ?? '').trim() === '') continue;
    const style = getComputedStyle(node);
    const colour = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [luminance(colour), luminance(groundOf(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) weak.add(`${node.nodeName} .${node.getAttribute('class')} ${colour} ${contrast.toFixed(2)}`);
  }
  return [...weak];
}
