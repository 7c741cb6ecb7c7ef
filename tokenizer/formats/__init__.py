"""The files of a tokenizer folder, in Hugging Face's, BERT's and fairseq's form."""
