// A click on a heading sorts its table: numbers by size, texts by letters.
document.querySelectorAll("th.sort").forEach(function (head) {
  head.addEventListener("click", function () {
    var body = head.closest("table").tBodies[0];
    var column = [].indexOf.call(head.parentNode.children, head);
    var sign = head.dataset.up === "1" ? -1 : 1;
    head.dataset.up = sign === 1 ? "1" : "0";
    function key(row) {
      var cell = row.cells[column];
      if (!cell) return "";
      var text = cell.dataset.v !== undefined ? cell.dataset.v : cell.textContent;
      var number = parseFloat(text);
      return isNaN(number) ? text : number;
    }
    [].slice.call(body.rows).sort(function (one, other) {
      var a = key(one), b = key(other);
      if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
      return (a < b ? -1 : a > b ? 1 : 0) * sign;
    }).forEach(function (row) { body.appendChild(row); });
  });
});
