// Texts below a contrast; large ones (24 px, or bold from 18.66 px on) need 3, what is disabled or hidden nothing.
least => {
  const rgba = text => { const n = (text.match(/[\d.]+/g) || []).map(Number);
    return /^color\(srgb/.test(text) ? [255 * n[0], 255 * n[1], 255 * n[2], n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat([1]);
  const behind = element => element ? over(rgba(getComputedStyle(element).backgroundColor), behind(element.parentElement))
                                    : [255, 255, 255, 1];
  const light = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const pale = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (["SCRIPT", "STYLE", "NOSCRIPT"].includes(element.tagName) || element.closest("[disabled], svg")) continue;
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    if (box.width < 2 || box.height < 2) continue;
    const ground = behind(element), a = light(over(rgba(style.color), ground)), b = light(ground);
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (contrast < (large ? 3 : least)) pale.add(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return [...pale];
}
