
// The count above a table follows what is chosen.
document.querySelector(".choices")?.addEventListener("change", () => {
  for (const input of document.querySelectorAll("input[type=search]")) input.dispatchEvent(new Event("input"));
});
