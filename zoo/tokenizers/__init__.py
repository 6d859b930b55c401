"""Vocabularies: read, compared, and models of unlike ones merged.

tokenizer, older_tokenizers     which token has which id, from whatever files say it
spelling, chat_templates        what tokens spell; how a conversation is written
vocabulary, reindexed           every model shown with the result's tokens
transplant, pursuit             rows of tokens that a model never had
token_ids                       ids that configurations name
"""
