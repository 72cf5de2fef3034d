// Paper is white: whatever theme a page is read in, it is printed in the light one.
const page = document.documentElement.dataset;
let read;
addEventListener("beforeprint", () => {
  read = page.theme;
  page.theme = "light";
});
addEventListener("afterprint", () => {
  page.theme = read;
});
