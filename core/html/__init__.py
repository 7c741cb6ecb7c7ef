"""Pages that stand by themselves: HTML, and charts as SVG."""
