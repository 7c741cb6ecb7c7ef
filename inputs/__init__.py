"""Every kind of file that the rooms read: gzip and streams, tar packages, XML from strangers, tables, sentences, searching in bytes."""
